"""Coding agents of other authors, run without an internet: only the node can be reached."""
