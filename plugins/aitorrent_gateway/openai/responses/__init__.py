"""OpenAI's /v1/responses, without state: the client sends the whole conversation."""
