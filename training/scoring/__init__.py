"""How a bundle is called."""
