"""Measures forecasts, into docs/results."""
