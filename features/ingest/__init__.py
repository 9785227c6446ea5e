"""From the source to `events`: reading, checks, pseudonyms, repeats, gates."""
