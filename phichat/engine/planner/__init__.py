"""Memory, placement and speed of a model on this machine, before it is loaded."""
