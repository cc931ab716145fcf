"""The transport's own stream protocols: the directory and broadcasts."""
