"""Bounded reader of GGUF headers."""
