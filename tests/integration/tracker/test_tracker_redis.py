"""Several daemons whose trackers share their swarms through a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from aitorrent_tracker.sharing.changes import peers_key
from aitorrent_tracker.sharing.exchange import RedisExchange
from aitorrent_tracker.sharing.shared import SharedStorage
from aitorrent_tracker.swarms.memory import Limits, MemoryStorage
from aitorrent_tracker.swarms.storage import Announce, Counts, Event
from tests.integration.tracker.test_tracker_sockets import (
    asked,
    called,
    config,
    connected,
    reply_of,
    stats,
    udp_socket,
)
from tests.support.nodes import Daemon, DaemonFactory, NodeFactory, wait_for
from tests.support.servers.redis_server import PROGRAM, REASON, RedisServer

pytestmark = pytest.mark.skipif(not PROGRAM, reason=REASON)
HASH = b"\x01" * 20
PASSWORD = "not-to-be-shown"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, PASSWORD)
    try:
        yield server
    finally:
        server.kill()


def sharing(redis: RedisServer, tmp_path: Path) -> Any:
    secret = tmp_path / "redis.secret"
    secret.write_text(redis.password)
    return config(listen="127.0.0.1", storage=redis.url, storage_password={"file": str(secret)})


async def port_of(daemon: Daemon) -> int:
    listening = (await daemon.call("tracker.stats"))["listening"]
    return int(listening[0].rpartition(":")[2].partition("/")[0])


async def over_http(
    port: int, peer: int, event: str = "", *, left: int = 1, action: str = "announce"
) -> dict[bytes, Any]:
    query = f"info_hash={'%01' * 20}&peer_id={'p' * 20}&port={peer}&left={left}&event={event}"
    async with connected(port) as (reader, writer):
        writer.write(f"GET /{action}?{query} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        reply: Any = lt.bdecode((await reply_of(reader))[1])
    found: dict[bytes, Any] = reply
    return found


async def over_udp(port: int, peer: int) -> set[int]:
    """The ports of the peers that a leecher gets."""
    with udp_socket(port, socket.AF_INET) as sock:
        (connection,) = struct.unpack(
            ">8xQ", await asked(sock, struct.pack(">QII", 0x41727101980, 0, 1))
        )
        announce = struct.pack(
            ">QII20s20sQQQIIIiH", connection, 1, 2, HASH, b"u" * 20, 0, 1, 0, 0, 0, 0, -1, peer
        )
        return ports(await asked(sock, announce), 20)


def ports(raw: bytes, at: int = 0) -> set[int]:
    return {int.from_bytes(raw[i + 4 : i + 6], "big") for i in range(at, len(raw), 6)}


async def scraped(port: int) -> tuple[int, int, int]:
    """Seeds, leechers, completed downloads."""
    reply = await over_http(port, 1, action="scrape")
    row = reply[b"files"].get(HASH, {})
    return row.get(b"complete", 0), row.get(b"incomplete", 0), row.get(b"downloaded", 0)


async def scrapes(port: int, *expected: int) -> None:
    last: list[tuple[int, ...]] = []

    async def is_so() -> bool:
        last[:] = [await scraped(port)]
        return last[0] == expected

    with contextlib.suppress(AssertionError):
        await wait_for(is_so, 20)
    assert last[0] == expected


async def test_two_trackers_share_a_swarm_and_one_may_die(
    redis: RedisServer, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    setup = sharing(redis, tmp_path)
    one, two = await daemon_factory(setup), await daemon_factory(setup)
    first, second = await port_of(one), await port_of(two)
    await over_http(first, 7001)
    await scrapes(second, 0, 1, 0)
    assert ports((await over_http(second, 7002))[b"peers"]) == {7001}
    assert await over_udp(second, 7003) == {7001, 7002}
    await scrapes(first, 0, 3, 0)
    assert await over_udp(first, 7004) == {7001, 7002, 7003}
    # A client that does not know whether its announce arrived repeats it, elsewhere.
    await asyncio.gather(
        over_http(first, 7001, "completed", left=0), over_http(second, 7001, "completed", left=0)
    )
    for port in (first, second):
        await scrapes(port, 1, 3, 1)
    await over_http(second, 7002, "stopped")
    await scrapes(first, 1, 2, 1)

    await one.kill()
    assert ports((await over_http(second, 7005))[b"peers"]) == {7001, 7003, 7004}
    await over_http(second, 7001, "stopped", left=0)
    late = await port_of(await daemon_factory(setup))
    await scrapes(late, 0, 3, 1)
    assert ports((await over_http(late, 7006))[b"peers"]) == {7003, 7004, 7005}
    for daemon in (one, two):
        assert PASSWORD not in daemon.log()


async def test_trackers_serve_without_redis_and_catch_up_when_it_returns_empty(
    redis: RedisServer, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    setup = sharing(redis, tmp_path)
    one, two = await daemon_factory(setup), await daemon_factory(setup)
    first, second = await port_of(one), await port_of(two)
    await over_http(first, 7001)
    await over_http(first, 7001, "completed", left=0)
    await scrapes(second, 1, 0, 1)

    redis.kill()
    assert ports((await over_http(first, 7002))[b"peers"]) == {7001}
    assert ports((await over_http(second, 7003))[b"peers"]) == {7001}
    await over_http(second, 7003, "completed", left=0)

    async def warnings() -> str:
        return str((await one.call("node.status"))["warnings"])

    async def is_told() -> bool:
        return "swarms are not shared" in await warnings()

    await wait_for(is_told, 30)
    assert redis.url in await warnings() and PASSWORD not in await warnings()

    redis.start()
    for port in (first, second):
        await scrapes(port, 2, 1, 2)
    assert "swarms are not shared" not in await warnings()
    await scrapes(await port_of(await daemon_factory(setup)), 2, 1, 2)


async def test_tracker_starts_while_redis_is_down(
    redis: RedisServer, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    redis.kill()
    daemon = await daemon_factory(sharing(redis, tmp_path))
    port = await port_of(daemon)
    await over_http(port, 7001)
    redis.start()
    await scrapes(await port_of(await daemon_factory(sharing(redis, tmp_path))), 0, 1, 0)


async def test_wrong_password_is_a_warning(
    redis: RedisServer, node_factory: NodeFactory, tmp_path: Path
) -> None:
    setup = sharing(redis, tmp_path)
    (tmp_path / "redis.secret").write_text("wrong")
    node = await node_factory(setup)

    async def told() -> bool:
        problem = (await stats(node))["storage_problem"]
        return bool(problem) and problem in str(await called(node, "node.status"))

    await wait_for(told, 20)
    found = await stats(node)
    assert found["storage"] == redis.url and "invalid username-password" in found["storage_problem"]


@contextlib.asynccontextmanager
async def exchanging(
    redis: RedisServer, clock: list[float]
) -> AsyncIterator[tuple[SharedStorage, Any]]:
    """Shared storage at work, whose clock the test turns; and a client of Redis."""
    from redis import asyncio as aioredis

    memory = MemoryStorage(Limits(), ttl_s=1800, now=clock[0], draw=random.random)
    storage = SharedStorage(memory, 0.0)
    exchange = RedisExchange(
        *(redis.url, redis.password, storage, lambda: clock[0], random.random),
        logging.getLogger("test"),
        max_counters=2,
    )
    client: Any = aioredis.Redis.from_url(redis.url, password=redis.password)
    task = asyncio.create_task(exchange.keep())
    try:
        await wait_for(lambda: exchange.is_connected, 20)
        yield storage, client
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.aclose()


def leecher(port: int, event: Event = Event.NONE) -> Announce:
    is_seed = event is Event.COMPLETED
    return Announce(HASH, b"i" * 20, b"\x08\x08\x08\x08", port, event, is_seed, 0)


async def test_silent_peers_leave_redis_and_keys_without_trackers_expire(
    redis: RedisServer,
) -> None:
    clock = [10_000.0]
    async with exchanging(redis, clock) as (storage, client):
        storage.announce(leecher(1), clock[0])
        await wait_for(lambda: client.hlen(peers_key(HASH)), 20)
        assert 1800 <= await client.ttl(peers_key(HASH)) <= 1860
        # Its clock is Redis's, so that it, and not ours, says how old the peer is there.
        storage.offset_s += 1000
        clock[0] += 1000
        storage.announce(leecher(2), clock[0])
        clock[0] += 900
        storage.offset_s += 900
        storage.expire(clock[0])
        assert storage.counts(HASH) == Counts(0, 1, 0)

        async def is_one() -> bool:
            return bool(await client.hlen(peers_key(HASH)) == 1)

        await wait_for(is_one, 20)


async def test_a_peer_that_left_just_before_the_end_is_gone(redis: RedisServer) -> None:
    clock = [10_000.0]
    async with exchanging(redis, clock) as (storage, client):
        storage.announce(leecher(1), clock[0])
        storage.announce(leecher(2), clock[0])
        await wait_for(lambda: client.hlen(peers_key(HASH)), 20)
        storage.announce(leecher(1, Event.STOPPED), clock[0])
    async with exchanging(redis, clock) as (storage, client):
        assert await client.hlen(peers_key(HASH)) == 1
        assert storage.counts(HASH) == Counts(0, 1, 0)


async def test_counters_and_foreign_keys_in_redis_are_bounded_and_checked(
    redis: RedisServer,
) -> None:
    clock = [10_000.0]
    async with exchanging(redis, clock) as (storage, client):
        for n in range(5):
            done = leecher(1, Event.COMPLETED)._replace(info_hash=bytes([n]) * 20)
            storage.announce(done, clock[0])
        await wait_for(lambda: client.hlen(b"tracker:completed"), 20)
        await client.hset("tracker:peers:zz", "field", "value")
        await client.hset(peers_key(b"x" * 20), "field", "value")
        await client.publish("tracker:changes", b"\xff" * 99)
        storage.announce(leecher(9), clock[0])
        await wait_for(lambda: client.exists(peers_key(HASH)), 20)
        assert await client.hlen(b"tracker:completed") == 2
    async with exchanging(redis, clock) as (storage, client):
        assert storage.counts(HASH).leechers == 1
        assert storage.counts(b"x" * 20) == Counts(0, 0, 0)
