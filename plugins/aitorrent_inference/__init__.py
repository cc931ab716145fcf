"""The inference plugin: who answers a prompt, here and for peers."""
