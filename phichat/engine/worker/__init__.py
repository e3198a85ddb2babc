"""What runs inside the engine process; nothing else imports llama_cpp."""
