"""Base of all other code: the contract, errors, places, dates and array types."""
