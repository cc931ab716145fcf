"""Messages between nodes of the DHT, and their datagrams."""
