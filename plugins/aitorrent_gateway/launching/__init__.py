"""Programs of others, pointed at the node."""
