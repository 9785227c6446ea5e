"""Work that several jobs share."""
