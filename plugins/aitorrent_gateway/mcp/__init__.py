"""MCP: the node's control methods and models as tools for programs that are led by models."""
