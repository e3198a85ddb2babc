"""Code inside the engine process, the only one that imports llama_cpp and jinja2."""
