"""Nodes of other DHTs for `benchmarks.dht`, run by the Python that has them installed.

    python dht_rivals.py {kademlia,ipv8} PORT COUNT [BOOTSTRAP_PORT]

Starts COUNT nodes at PORT and above, all of which start from the node at BOOTSTRAP_PORT, and then
obeys JSON lines on standard input: {"op": "put"|"get", "node": N, "name": TEXT}. Each is answered
by one line. Needs kademlia 2.2.3 and pyipv8; neither is part of the product.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from typing import Any, Protocol


class Node(Protocol):
    """A node of any kind."""

    async def put(self, name: str, value: str) -> bool:
        """Store; whether it worked."""

    async def get(self, name: str) -> tuple[bool, int]:
        """Whether it was found, and the number of requests."""


class KademliaNode:
    """A node of bmuller/kademlia."""

    def __init__(self) -> None:
        from kademlia.network import Server

        self.server = Server()
        self.sent = 0

    async def start(self, port: int, bootstrap: int | None) -> None:
        """Listen, and meet the node at the port `bootstrap`."""
        await self.server.listen(port, interface="127.0.0.1")
        protocol = self.server.protocol
        for name in ("find_node", "find_value", "store", "ping"):
            self._count(protocol, name)
        if bootstrap is not None:
            await self.server.bootstrap([("127.0.0.1", bootstrap)])

    def _count(self, protocol: Any, name: str) -> None:
        call = getattr(protocol, name)

        def counted(*args: Any) -> Any:
            self.sent += 1
            return call(*args)

        setattr(protocol, name, counted)

    async def put(self, name: str, value: str) -> bool:
        """Store; whether it worked."""
        return bool(await self.server.set(name, value))

    async def get(self, name: str) -> tuple[bool, int]:
        """Whether it was found, and the number of requests."""
        before = self.sent
        found = await self.server.get(name)
        return found is not None, self.sent - before


class Ipv8Node:
    """A node of py-ipv8's DHT, without its default bootstrap servers."""

    def __init__(self) -> None:
        self.community: Any = None
        self.sent = 0

    async def start(self, port: int, bootstrap: int | None) -> None:
        """Listen, and meet the node at the port `bootstrap`."""
        from ipv8.community import CommunitySettings
        from ipv8.dht.community import DHTCommunity
        from ipv8.keyvault.crypto import default_eccrypto
        from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint
        from ipv8.peer import Peer
        from ipv8.peerdiscovery.network import Network

        endpoint = UDPEndpoint(port, "127.0.0.1")
        await endpoint.open()
        peer = Peer(default_eccrypto.generate_key("curve25519"))
        peer.address = ("127.0.0.1", port)
        settings = CommunitySettings(my_peer=peer, endpoint=endpoint, network=Network())
        self.community = DHTCommunity(settings)
        self.community.my_estimated_wan = self.community.my_estimated_lan = ("127.0.0.1", port)
        send = self.community._send_find_request

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.sent += 1
            return send(*args, **kwargs)

        self.community._send_find_request = counted
        if bootstrap is not None:
            self.community.walk_to(("127.0.0.1", bootstrap))

    async def settle(self, ports: list[int]) -> None:
        """Meet a few others, as its walker would do over minutes."""
        for port in ports:
            self.community.walk_to(("127.0.0.1", port))
            await asyncio.sleep(0.005)

    async def put(self, name: str, value: str) -> bool:
        """Store; whether it worked."""
        key = hashlib.sha1(name.encode()).digest()
        return bool(await self.community.store_value(key, value.encode(), sign=True))

    async def get(self, name: str) -> tuple[bool, int]:
        """Whether it was found, and the number of requests."""
        before = self.sent
        values = await self.community.find_values(hashlib.sha1(name.encode()).digest())
        return bool(values), self.sent - before


async def main() -> None:
    """Start the nodes and obey."""
    kind, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    bootstrap = int(sys.argv[4]) if len(sys.argv) > 4 else None
    nodes: list[Any] = []
    for i in range(count):
        node = KademliaNode() if kind == "kademlia" else Ipv8Node()
        first = bootstrap if bootstrap is not None else (port if i else None)
        await node.start(port + i, first)
        nodes.append(node)
    print(json.dumps({"ready": count}), flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        node = nodes[order["node"]]
        started = time.perf_counter()
        found, sent = True, 0
        try:
            if order["op"] == "settle":
                await node.settle(order["ports"])
            elif order["op"] == "put":
                found = await node.put(order["name"], "a value")
            else:
                found, sent = await node.get(order["name"])
        except Exception as e:
            found, sent = False, 0
            print(f"{kind}: {e!r}", file=sys.stderr)
        took_s = time.perf_counter() - started
        print(json.dumps({"found": found, "sent": sent, "took_s": took_s}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
