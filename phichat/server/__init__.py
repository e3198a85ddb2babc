"""The models of this machine behind the OpenAI HTTP API: the only user of starlette and uvicorn."""
