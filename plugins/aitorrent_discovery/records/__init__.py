"""Peer records: what a node signs about itself, and what others may believe of it."""
