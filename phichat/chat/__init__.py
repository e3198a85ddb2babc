"""A conversation: its history, its context budget, one turn after the other."""
