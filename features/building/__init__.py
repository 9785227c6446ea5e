"""Passes over the files that answer many as-of dates: kernel and storage joined into tasks."""
