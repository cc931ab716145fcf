"""The Ollama plugin: models of an Ollama server on this machine."""
