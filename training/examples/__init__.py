"""Labelled rows, their shards and batches."""
