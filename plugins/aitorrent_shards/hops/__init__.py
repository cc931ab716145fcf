"""Activations between adjacent stages: the sending and the receiving end."""
