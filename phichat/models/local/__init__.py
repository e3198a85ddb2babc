"""Installed models: find, verify, remove."""
