"""phichat: local chat with quantized GGUF models."""

__version__ = "0.1.0"
