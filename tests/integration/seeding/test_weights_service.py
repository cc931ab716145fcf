"""The service `WEIGHTS`, as other plugins use it: ranges, reading in order, offers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitorrentd import Node
from aitorrentd.api import TRANSPORT, Conflict, Event, InvalidParams, NotFound, TransferSucceeded
from aitorrentd.api.models.weights import (
    TORRENT_INDEXES,
    WEIGHTS,
    KnownTorrent,
    Published,
    WantedFile,
    WebSource,
    Weights,
)
from aitorrentd.api.tasks import beside
from tests.support.nodes import NodeFactory, wait_for
from tests.support.seeding.daemons import MIB, make_file, settings
from tests.support.seeding.web import file_server

SIZE = 64 * MIB
PIECE = 4 * MIB


async def node(
    factory: NodeFactory, hub: Node | None = None, *, state_dir: Path | None = None, **over: Any
) -> Node:
    bootstrap = [] if hub is None else list(hub.kernel.service(TRANSPORT).addresses())
    tables = {
        "transport": {"bootstrap": bootstrap},
        "dht": {"enabled": False},
        "seeding": settings(**over),
    }
    made = await factory({"plugins": tables}, state_dir=state_dir)
    if hub is not None:
        await wait_for(lambda: made.kernel.service(TRANSPORT).peers(), 10)
    return made


def weights(of: Node) -> Weights:
    return of.kernel.service(WEIGHTS)


async def test_ranges_take_at_most_a_twentieth_more_bytes_than_they_have(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", 5 * SIZE)
    content = (tmp_path / "f").read_bytes()
    a = await node(node_factory)
    await weights(a).offer(tmp_path / "f")
    b = await node(node_factory, a)
    header, third = (0, 100_000), (1 * SIZE + 12_345, 3 * SIZE + 777)

    fetch = await weights(b).fetch(WantedFile(digest, 5 * SIZE, "f"), ranges=[header, third])
    path = await fetch.want([header, third])

    with path.open("rb") as file:
        for start, stop in (header, third):
            file.seek(start)
            assert file.read(stop - start) == content[start:stop]
    progress = fetch.progress()
    most = 1.05 * (third[1] - third[0]) + PIECE  # the header takes a piece of its own
    assert progress.done == progress.total
    assert progress.from_peers <= most
    assert path.stat().st_blocks * 512 <= most, "the rest is a hole"
    assert weights(b).local(digest) is None, "it is not whole"

    c = await node(node_factory, b)  # b seeds what it holds
    fetch_c = await weights(c).fetch(WantedFile(digest, 5 * SIZE, "f"), ranges=[third])
    async with asyncio.timeout(60):
        await fetch_c.want([third])
    fetch.release()
    fetch_c.release()


async def test_more_is_fetched_from_a_peer_that_left_while_nothing_was_wanted(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    a = await node(node_factory)
    await weights(a).offer(tmp_path / "f")
    b = await node(node_factory, a)
    first, more = (0, MIB), (SIZE - MIB, SIZE)
    fetch = await weights(b).fetch(WantedFile(digest, SIZE, "f"), ranges=[first])
    await fetch.want([first])
    await weights(a).withdraw(digest)
    await wait_for(lambda: not fetch.progress().peers)
    await weights(a).offer(tmp_path / "f")

    async with asyncio.timeout(20):
        path = await fetch.want([first, more])
    with path.open("rb") as file:
        file.seek(more[0])
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(_end(tmp_path / "f")).digest()
    fetch.release()


def _end(path: Path) -> bytes:
    return path.read_bytes()[-MIB:]


async def test_bytes_are_read_in_order_while_they_arrive(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    content = (tmp_path / "f").read_bytes()
    a = await node(node_factory, upload_limit="8MiB/s")
    await weights(a).offer(tmp_path / "f")
    b = await node(node_factory, a)
    fetch = await weights(b).fetch(WantedFile(digest, SIZE, "f"))

    read = bytearray()
    done_at_first = 0
    async for chunk in fetch.read(1000, SIZE):
        done_at_first = done_at_first or fetch.progress().done
        read += chunk

    assert read == content[1000:]
    assert done_at_first < 0.75 * SIZE, "the first bytes came long before the last"
    path = await fetch.wait()
    assert weights(b).local(digest) == path
    assert b"".join([chunk async for chunk in fetch.read(5, 10)]) == content[5:10]
    fetch.release()


async def test_bytes_of_a_file_without_a_torrent_are_read_while_they_arrive_but_for_the_last(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", 20 * MIB)
    content = (tmp_path / "f").read_bytes()
    a = await node(node_factory)
    async with file_server(content) as web:
        web.rate_bps = 20 * MIB
        sources = (WebSource(web.url, {"Authorization": "Bearer hf_secret"}),)
        fetch = await weights(a).fetch(WantedFile(digest, 20 * MIB, "f", sources))
        chunks = fetch.read(0, 20 * MIB)
        first = await anext(chunks)
        assert web.sent < 20 * MIB
        assert first + b"".join([chunk async for chunk in chunks]) == content
        assert web.authorization == {"Bearer hf_secret"}
        fetch.release()
        await wait_for(lambda: weights(a).local(digest))
    async with file_server(content) as web:
        web.corrupt(3)
        b = await node(node_factory)
        fetch = await weights(b).fetch(WantedFile(digest, 20 * MIB, "f", (WebSource(web.url),)))
        read = bytearray()
        with pytest.raises(Exception, match="no source sent the file"):
            async for chunk in fetch.read(0, 20 * MIB):
                read += chunk
        assert len(read) < 20 * MIB, "a wrong file is never seen whole"
        fetch.release()


async def test_peer_that_sent_the_file_is_named(node_factory: NodeFactory, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    a = await node(node_factory)
    await weights(a).offer(tmp_path / "f")
    b = await node(node_factory, a)
    seen: list[Event] = []

    async def listen(events: AsyncIterator[Event]) -> None:
        while True:
            seen.append(await anext(events))

    with b.events(TransferSucceeded) as events:
        async with beside(listen(events), "listen"):
            fetch = await weights(b).fetch(WantedFile(digest, SIZE, "f"))
            await fetch.wait()
            (event,) = await wait_for(lambda: seen, 10)
    fetch.release()
    assert isinstance(event, TransferSucceeded)
    assert (event.peer, event.sha256) == (a.id, digest)
    assert SIZE <= event.size_bytes < 1.1 * SIZE


async def test_offer_refuses_another_digest_and_withdraw_an_unknown_file(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", MIB)
    a = await node(node_factory)
    with pytest.raises(Conflict, match="has the SHA-256"):
        await weights(a).offer(tmp_path / "f", sha256="00" * 32)
    with pytest.raises(NotFound, match="there is no file"):
        await weights(a).offer(tmp_path / "none")
    with pytest.raises(NotFound, match="is not seeded here"):
        await weights(a).withdraw("00" * 32)
    with pytest.raises(InvalidParams, match="is no SHA-256"):
        await weights(a).fetch(WantedFile("../../x", 1, "x"))
    assert await weights(a).offer(tmp_path / "f", sha256=digest) == digest
    assert weights(a).local(digest) == tmp_path / "f"
    (tmp_path / "f").write_bytes(b"changed")
    assert weights(a).local(digest) is None
    await weights(a).withdraw(digest)
    assert (tmp_path / "f").exists()


async def test_bad_ranges_are_refused(node_factory: NodeFactory, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "f", MIB)
    a = await node(node_factory)
    await weights(a).offer(tmp_path / "f")
    for ranges in ([(5, 5)], [(-1, 3)], [(4, 2)]):
        with pytest.raises(InvalidParams, match="is not a range of bytes"):
            await weights(a).fetch(WantedFile(digest, MIB, "f"), ranges=ranges)
    fetch = await weights(a).fetch(WantedFile(digest, MIB, "f"))
    assert hashlib.sha256((await fetch.wait()).read_bytes()).hexdigest() == digest
    fetch.release()


class Liar:
    """An index that names the torrent of one file for another of the same size."""

    def __init__(self, wanted: str, named: KnownTorrent) -> None:
        self.wanted = wanted
        self.named = named

    async def find(self, sha256: str) -> list[KnownTorrent]:
        return [replace(self.named, sha256=sha256)] if sha256 == self.wanted else []

    async def publish(self, torrent: KnownTorrent, source: Published) -> list[str]:
        raise Conflict("this index takes nothing")


async def test_torrent_that_is_another_file_is_discarded_and_the_right_one_found(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    right, other = (make_file(tmp_path / n, 9 * MIB, seed=len(n)) for n in ("a", "bb"))
    a = await node(node_factory)
    for name in ("a", "bb"):
        await weights(a).offer(tmp_path / name)
    b = await node(node_factory, a)
    indexes = b.kernel.service(TORRENT_INDEXES)
    (known,) = await indexes.get("peers").find(other)
    with indexes.added("lies", Liar(right, known)):
        fetch = await weights(b).fetch(WantedFile(right, 9 * MIB, "a"))
        path = await fetch.wait()
    assert path.read_bytes() == (tmp_path / "a").read_bytes()
    assert weights(b).local(other) is None
    fetch.release()


async def test_file_that_is_asked_for_while_the_node_starts_is_not_fetched_again(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """Files that changed are hashed then; the one that is asked for does not wait for them."""
    changed = [tmp_path / f"changed{n}" for n in range(4)]
    for n, path in enumerate(changed):
        make_file(path, 40 * MIB, seed=n + 2)
    digest = make_file(tmp_path / "f", MIB)
    state = tmp_path / "state"
    first = await node(node_factory, state_dir=state)
    for path in (*changed, tmp_path / "f"):
        await weights(first).offer(path)
    await first.stop()
    for path in changed:
        path.touch()
    async with file_server((tmp_path / "f").read_bytes()) as web:
        again = await node(node_factory, state_dir=state)
        sources = (WebSource(web.url),)
        fetch = await weights(again).fetch(WantedFile(digest, MIB, "f", sources))
        async with asyncio.timeout(20):
            assert await fetch.wait() == tmp_path / "f"
        fetch.release()
        assert web.requests == []


async def test_ranges_are_not_given_out_while_the_web_has_other_bytes_than_the_torrent(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """A peer names a torrent of other bytes: the digest of the whole file decides."""
    size = 24 * MIB
    right, other = (make_file(tmp_path / n, size, seed=len(n)) for n in ("a", "bb"))
    content = (tmp_path / "a").read_bytes()
    a = await node(node_factory, upload_limit="4MiB/s")  # the web is heard before all has come
    await weights(a).offer(tmp_path / "bb")
    b = await node(node_factory, a)
    indexes = b.kernel.service(TORRENT_INDEXES)
    (known,) = await indexes.get("peers").find(other)
    span = (0, 20 * MIB)
    async with file_server(content) as web:
        with indexes.added("lies", Liar(right, known)):
            wanted = WantedFile(right, size, "a", (WebSource(web.url),))
            fetch = await weights(b).fetch(wanted, ranges=[span])
            async with asyncio.timeout(200):
                path = await fetch.want([span])
    is_right = path.read_bytes()[: span[1]] == content[: span[1]]
    assert is_right  # not compared here: the difference of long bytes takes minutes to tell
    fetch.release()
