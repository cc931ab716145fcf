"""Gossip: which records two nodes exchange, and the streams on which they do."""
