"""What this node holds of which torrent, on disk and across restarts."""
