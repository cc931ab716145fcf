"""Requests and replies of trackers: HTTP, UDP and bencode; no I/O."""
