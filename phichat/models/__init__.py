"""Models: which there are, and where their files stand."""
