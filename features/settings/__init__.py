"""Settings of source, members and storage, as the YAML says them."""
