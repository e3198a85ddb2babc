"""phichat: local chat with quantized GGUF models."""

__version__ = "0.2.0"
