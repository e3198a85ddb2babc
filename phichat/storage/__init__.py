"""Files of phichat's own: atomic writes, JSON files, locks, fingerprints."""
