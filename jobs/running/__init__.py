"""What runs a job: command line, settings, session, record."""
