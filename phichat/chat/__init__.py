"""Conversations: the turn pipeline, the tree of turns, slash commands, votes and replay."""
