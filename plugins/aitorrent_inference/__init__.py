"""The inference plugin: routes prompts from this node and from peers."""
