"""The DHT on the event loop: sockets, bootstrap, saved contacts."""
