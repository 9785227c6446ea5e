"""Pure functions on numpy and Arrow: histories, figures over windows, tiers, sequences, outcomes."""
