"""Memory of `radloop serve`: idle, and with one study in work."""
