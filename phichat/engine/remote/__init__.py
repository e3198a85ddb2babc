"""An engine that is somebody else's: a server that speaks the OpenAI HTTP API. The only user of `openai`."""
