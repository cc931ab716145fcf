"""Torrent files that publishers upload: read strictly; no I/O."""
