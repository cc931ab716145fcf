"""NAT traversal: what keeps others from dialling this node, and ways around it."""
