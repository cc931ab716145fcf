"""The OpenAI plugin: any OpenAI-compatible server as a backend."""
