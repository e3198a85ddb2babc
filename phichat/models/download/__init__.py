"""Download models, resuming partial ones."""
