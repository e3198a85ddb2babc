"""From Markdown to styled lines."""
