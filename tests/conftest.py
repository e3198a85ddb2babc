"""Engines are private to a test, and end with it, where it does not ask for one that stays."""

import os

os.environ["PHICHAT_KEEP_ALIVE"] = "0"
