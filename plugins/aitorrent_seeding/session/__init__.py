"""libtorrent's session on asyncio; the only room that imports libtorrent."""
