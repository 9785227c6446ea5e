"""The report: its words, pictures and page."""
