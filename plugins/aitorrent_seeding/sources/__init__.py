"""Where bytes and torrents come from: the web, the directory, and indexes of other plugins."""
