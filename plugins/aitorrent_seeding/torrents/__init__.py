"""Torrents without a session: how they are made, read and named."""
