"""OpenAI HTTP API for the models of this machine: the only user of starlette and uvicorn."""
