"""Transport: authenticated, encrypted channels to peers, with multiplexed streams."""
