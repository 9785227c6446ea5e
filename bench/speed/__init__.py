"""Measures speed beside other engines, into docs/results."""
