"""Measurements of this machine, and the settings chosen by them."""
