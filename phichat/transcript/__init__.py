"""Transcripts: what was said, kept."""
