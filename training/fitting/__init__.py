"""Fits a network: plan, loop, ranks, checkpoints, teacher, pretraining."""
