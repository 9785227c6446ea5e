"""Measures, each a command of its own; nothing here is part of the product."""
