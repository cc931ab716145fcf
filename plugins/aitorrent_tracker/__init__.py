"""The tracker plugin: a BitTorrent tracker over HTTP and UDP."""
