"""Hole punching: a direct connection between two nodes that no one can dial."""
