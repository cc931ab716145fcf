"""The hub plugin: every Hugging Face tool uses the swarm, and gets verified files."""
