"""Ports that the router forwards to this node because it was asked: PCP, NAT-PMP and UPnP IGD.

UPnP is spoken by async-upnp-client, which Home Assistant maintains: pure Python, asyncio, and it
reads XML from the network with defusedxml. What else was considered:

- miniupnpc, the C client: small, but it blocks, parses what strangers say in C inside the daemon,
  and has no wheels for Python 3.14, where pip would need a compiler.
- libtorrent maps ports, and speaks all three protocols, but only within a session that opens and
  maps listening ports of its own, and chooses external ports by itself.
- aioupnp and UPnPy are no longer maintained.

PCP (RFC 6887) and NAT-PMP (RFC 6886) are a datagram of 60 or 16 bytes each way. The one library for
NAT-PMP blocks, and there is none for PCP, so `datagrams` has them.
"""
