"""Rendering of Markdown as styled lines."""
