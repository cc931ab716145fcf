"""A distributed hash table over UDP: it finds providers that this node never met."""
