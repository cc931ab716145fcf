"""Separate processes for heavy or untrusted work."""
