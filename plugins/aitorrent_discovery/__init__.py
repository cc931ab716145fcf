"""The discovery plugin: gossip, the local network, and lists under DNS names."""
