"""From sequences to tier probabilities: tensors, networks, distributed training, bundles, evaluation, scoring."""
