"""Activations between two neighbouring stages: the sending and the receiving end."""
