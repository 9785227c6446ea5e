"""Tasks that build rows of many as-of dates in one reading of the files: kernel and storage joined."""
