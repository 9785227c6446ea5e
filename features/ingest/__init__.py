"""From the source to `events`: checks, pseudonyms, repeats, gates."""
