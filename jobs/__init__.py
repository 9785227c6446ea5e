"""Entry points for spark-submit: read settings, open tables, call, write. No logic."""
