"""Bundles: what is published of a model, and how it is stored."""
