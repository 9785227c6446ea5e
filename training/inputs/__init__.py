"""From sequences to tensors: what trained is what scores."""
