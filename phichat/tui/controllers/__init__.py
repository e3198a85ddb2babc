"""Actions of the chat screen."""
