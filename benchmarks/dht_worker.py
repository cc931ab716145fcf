"""Nodes of this DHT for `benchmarks.dht`: many in one process, on loopback.

    python -m benchmarks.dht_worker PORT COUNT [BOOTSTRAP_PORT]

Obeys the same JSON lines as `dht_rivals.py`. Each node has its own key, socket, gate and core, as
in a daemon; a daemon's other plugins are left out, so that 300 nodes fit on a machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from pathlib import Path

import uvloop
from nacl.signing import SigningKey

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from aitorrent_dht.core.contact import id_of  # noqa: E402
from aitorrent_dht.core.finding import Found, Stored  # noqa: E402
from aitorrent_dht.core.node import DhtNode  # noqa: E402
from aitorrent_dht.core.record import (  # noqa: E402
    SIGNATURE_DOMAIN,
    DhtRecord,
    Kind,
    provider_key,
)
from aitorrent_dht.net.endpoint import Endpoint  # noqa: E402
from aitorrent_dht.net.shell import Shell  # noqa: E402
from aitorrent_dht.wire.codec import Codec  # noqa: E402
from aitorrentd.api.signing import agree, signed_bytes, verify  # noqa: E402
from aitorrentd.api.tasks import Tasks  # noqa: E402

NETWORK = b"benchmark".ljust(32)


class BenchNode:
    """One node with its socket."""

    def __init__(self, tasks: Tasks) -> None:
        signer = SigningKey.generate()

        def sign(domain: str, message: bytes) -> bytes:
            return signer.sign(signed_bytes(domain, message)).signature

        def is_signed(record: DhtRecord) -> bool:
            part = record.signed_part(NETWORK)
            return verify(record.publisher, SIGNATURE_DOMAIN, part, record.signature)

        node = DhtNode(
            bytes(signer.verify_key),
            random=random.SystemRandom(),
            sign=lambda record: sign(SIGNATURE_DOMAIN, record.signed_part(NETWORK)),
            verify=is_signed,
            now=time.monotonic(),
            epoch_s=time.time(),
        )

        def agree_with(domain: str, public_key: bytes) -> bytes:
            return agree(bytes(signer), bytes(signer.verify_key), public_key, domain)

        codec = Codec(NETWORK, sign, verify, agree_with)
        self.shell = Shell(node, codec, tasks, now=time.monotonic, draw=random.random)

    @property
    def endpoint(self) -> Endpoint:
        """Its socket."""
        return self.shell.endpoint

    async def start(self, port: int, bootstrap: int | None) -> None:
        """Listen, and join through the node at the port `bootstrap`."""
        now = time.monotonic()
        await self.endpoint.bind([("127.0.0.1", port)])
        self.shell.node.start(now)
        if bootstrap is not None:
            self.shell.node.add_places([("127.0.0.1", bootstrap)], now)
        self.shell.flush()

    async def put(self, name: str) -> bool:
        """Publish; whether a node keeps it."""
        done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self.shell.node.publishing.put(
            Kind.PROVIDER,
            provider_key(name),
            b"a value",
            time.monotonic(),
            on_stored=done.set_result,
        )
        self.shell.flush()
        return (await done).count > 0

    async def get(self, name: str) -> tuple[bool, int]:
        """Whether it was found, and the number of requests."""
        key = provider_key(name)
        before = self.shell.node.state.counts["requests"]
        found: Found = await self.shell.search(key, id_of(key))
        return bool(found.records), self.shell.node.state.counts["requests"] - before


async def main() -> None:
    """Start the nodes and obey."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    bootstrap = int(sys.argv[3]) if len(sys.argv) > 3 else None
    tasks = Tasks(logging.getLogger("benchmark"))
    nodes = [BenchNode(tasks) for _ in range(count)]
    for i, node in enumerate(nodes):
        first = bootstrap if bootstrap is not None else (port if i else None)
        await node.start(port + i, first)
        await asyncio.sleep(0.02)
    for node in nodes[bootstrap is None :]:
        while not node.shell.node.upkeep.is_joined:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.05)
    print(json.dumps({"ready": count}), flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        node = nodes[order["node"]]
        started = time.perf_counter()
        found, sent = True, 0
        if order["op"] == "put":
            found = await node.put(order["name"])
        elif order["op"] == "get":
            found, sent = await node.get(order["name"])
        took_s = time.perf_counter() - started
        print(json.dumps({"found": found, "sent": sent, "took_s": took_s}), flush=True)
    await tasks.close()


if __name__ == "__main__":
    uvloop.run(main())
