"""This machine's network: when addresses, links and routes change, and when it was suspended."""
