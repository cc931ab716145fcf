"""Swarms: who shares which torrent; no I/O and no clock."""
