"""The code check: what an answer's code needs beyond the standard library."""
