"""Delta tables: schemas, log, commits, readers and writers of their files."""
