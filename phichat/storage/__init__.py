"""Small files of our own: JSON caches, fingerprints."""
