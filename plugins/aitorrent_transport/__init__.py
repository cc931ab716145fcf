"""Transport: authenticated, encrypted channels to peers, and streams on them."""
