"""Engines that stay after their starter has left: where they are, who may talk to them, and talking to them."""
