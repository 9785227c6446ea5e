"""Pure functions on numpy and Arrow: histories, window figures, tiers, sequences, outcomes."""
