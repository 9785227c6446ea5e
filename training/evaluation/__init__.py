"""Figures of a forecast whose outcome is known."""
