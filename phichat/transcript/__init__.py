"""Transcripts: saved conversations, their search, export and import."""
