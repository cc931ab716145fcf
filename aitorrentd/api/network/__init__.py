"""What plugins agree on about peers: transport, addresses, the directory, ways to reach a peer."""
