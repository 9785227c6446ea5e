"""Baselines and challengers that a network has to beat."""
