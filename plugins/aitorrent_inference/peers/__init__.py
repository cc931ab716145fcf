"""Prompts between peers: asking them, and answering them."""
