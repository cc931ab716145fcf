"""Processes of their own for heavy or untrusted work."""
