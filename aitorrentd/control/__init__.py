"""The control API: msgpack frames over a Unix socket, its server and its clients.

This package imports nothing by itself, so that `aitorrentctl` pays only for the client.
"""
