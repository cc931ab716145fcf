"""A daemon under bad clients and bad peers: it answers on, and its memory stays where it was."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aitorrent_transport.links.dial import dial
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.streams.frames import HEADER, Kind, frame
from aitorrentd.api import AitorrentError, TooLarge, pack
from aitorrentd.control import framing
from tests.support.control_server import RawPeer
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import READY_S, reference_ids, shards_config
from tests.support.transport.transport_nodes import Identity

MIB = 2**20
PROMPT = "WHICHNODEHOLDSWHICHLAYERS"
LONG = {"model": "m", "prompt": PROMPT, "params": {"max_tokens": 400, "temperature": 0.0}}


async def port_of(daemon: Daemon) -> int:
    (address,) = (await daemon.call("node.id"))["addresses"]
    return int(address.split("/")[4])


@pytest.mark.slow
async def test_10000_random_chunks_and_records_on_the_peer_port_leave_a_daemon_that_answers(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    port, rng = await port_of(daemon), random.Random(7)
    await one_bad_peer(port, rng, 0)  # what is set up once is no growth
    before, sent = daemon.rss_bytes(), 0
    while sent < 5_000:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(rng.randrange(1, 60)):
                head = rng.choice((b"", b"AIT1", b"AIT1\0\x40\1\1", b"GET / HTTP/1.1\r\n"))
                writer.write(head + rng.randbytes(rng.randrange(200)))
                sent += 1
            await writer.drain()
            writer.close()
    for n in range(100):
        sent += await one_bad_peer(port, rng, n)
    assert sent == pytest.approx(10_000, abs=60)
    assert daemon.rss_bytes() - before < 32 * MIB
    good = await dial("127.0.0.1", port, Credentials(Identity("good"), "main", "good"))
    good.close()
    assert await daemon.call("rpc.ping") == {"pong": True}
    await wait_for(lambda: no_peers(daemon), 15, every_s=0.1)


async def no_peers(daemon: Daemon) -> Any:
    return not (await daemon.call("transport.peers"))["peers"]


async def one_bad_peer(port: int, rng: random.Random, n: int) -> int:
    """An authenticated peer that sends 50 random records; returns how many."""
    link = await dial("127.0.0.1", port, Credentials(Identity(f"bad {n}"), "main", "bad"))
    link.start()
    link.send(frame(Kind.HELLO, 0, pack({"v": 1})))
    for _ in range(50):
        body = rng.randbytes(rng.randrange(30))
        record = HEADER.pack(rng.randrange(12), rng.choice([0, 1, 3, 2**31]), len(body)) + body
        with contextlib.suppress(TooLarge):
            link.send(rng.choice([record, rng.randbytes(40), record + record]))
    await asyncio.sleep(0)
    link.close()
    return 50


@pytest.fixture
async def pair(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> AsyncIterator[tuple[list[Daemon], list[int]]]:
    """Two daemons with half a model each, and the beginning of what the first one answers."""
    path = make_model(tmp_path / "m")
    one = await daemon_factory(shards_config(path, "0-3"))
    known = (await one.call("node.id"))["addresses"]
    config = shards_config(path, "3-6")
    config["plugins"]["transport"] = {"bootstrap": known}
    two = await daemon_factory(config)

    async def complete() -> Any:
        return len((await one.call("shards.spans"))["spans"]) == 2

    await wait_for(complete, READY_S, every_s=0.2)
    yield [one, two], reference_ids(path, [ord(c) - 33 for c in PROMPT], 24)


async def answered(daemon: Daemon, new: int) -> list[int]:
    ids: list[int] = []
    params = {"max_tokens": new, "temperature": 0.0}
    async with await daemon.client(60) as client:
        async for item in client.stream("inference.generate", {**LONG, "params": params}):
            ids += item["token_ids"]
    return ids


async def sessions(daemon: Daemon) -> int:
    return len((await daemon.call("shards.sessions"))["sessions"])


@pytest.mark.slow
async def test_clients_that_vanish_or_never_read_cost_bounded_memory_and_nobody_an_answer(
    pair: tuple[list[Daemon], list[int]],
) -> None:
    daemons, expected = pair
    assert await answered(daemons[0], 24) == expected
    before = [d.rss_bytes() for d in daemons]
    for _ in range(3):
        async with contextlib.AsyncExitStack() as stack:
            for n in range(8):
                peer = await stack.enter_async_context(await RawPeer.connect(daemons[0].socket))
                # One call that never gives credit, or as much as there is without ever reading.
                credit = 1 if n % 2 else framing.MAX_CREDIT
                call = [framing.CALL, 1, "inference.generate", LONG, {"credit": credit}]
                peer.send_bytes(framing.encode(*call))
            # In the middle of all those answers.
            await wait_for(lambda: under_way(daemons), 10)
            assert await answered(daemons[0], 24) == expected
        await wait_for(lambda: all_ended(daemons), 20, every_s=0.1)
    growth = [d.rss_bytes() - b for d, b in zip(daemons, before, strict=True)]
    assert max(growth) < 32 * MIB
    assert await answered(daemons[0], 24) == expected


async def under_way(daemons: list[Daemon]) -> Any:
    return all([await sessions(d) for d in daemons])


async def all_ended(daemons: list[Daemon]) -> Any:
    return not any([await sessions(d) for d in daemons])


@pytest.mark.slow
async def test_peer_that_does_not_read_its_answers_costs_bounded_memory(
    pair: tuple[list[Daemon], list[int]], node_factory: Any
) -> None:
    from aitorrentd.api import TRANSPORT

    daemons, expected = pair
    before = daemons[0].rss_bytes()
    off = {name: {"enabled": False} for name in ("ollama", "openai", "shards", "inference", "dht")}
    bad = await node_factory({"plugins": off})
    address = (await daemons[0].call("node.id"))["addresses"][0]
    there = await bad.connect(address)
    line = b'{"prompt": "%s", "model": "m", "params": {"max_tokens": 400}}\n' % PROMPT.encode()
    streams = []
    for _ in range(40):
        with contextlib.suppress(AitorrentError):
            stream = await bad.service(TRANSPORT).open_stream(there.id, "/ai-torrent/1/generate")
            await stream.write(line)
            streams.append(stream)
    await wait_for(lambda: under_way(daemons[:1]), 10)
    assert await answered(daemons[0], 24) == expected
    assert daemons[0].rss_bytes() - before < 32 * MIB
    await bad.stop()
    await wait_for(lambda: all_ended(daemons), 20, every_s=0.1)
