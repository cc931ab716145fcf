"""The control API: msgpack frames over a Unix socket, its server and its clients.

This package imports nothing itself, so `aitorrentctl` pays only for the client.
"""
