"""Conversations from the files of other programs, and from phichat's own JSON."""
