"""Delta tables: schemas, log, commits, and readers and writers of their files."""
