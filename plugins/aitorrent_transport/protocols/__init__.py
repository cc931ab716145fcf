"""What the transport itself says on streams: the directory and broadcasts."""
