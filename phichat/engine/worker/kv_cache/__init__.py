"""KV cache sequences, and the files they are saved to."""
