"""What nodes tell of bytes that they sent each other: whose they were, and how many."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from aitorrent_seeding.crediting.claims import PROTOCOL
from aitorrent_seeding.crediting.proofs import LENGTH, MOST
from aitorrentd import Node
from aitorrentd.api import TRANSPORT, PeerGone, encode_frame, read_frame
from aitorrentd.api.models.weights import TORRENT_INDEXES, WantedFile
from aitorrentd.api.tasks import beside
from tests.support.http_nodes import called
from tests.support.nodes import DaemonFactory, NodeFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.seeding.transfers import (
    address_of,
    sharing_node,
    told_by,
    told_by_daemon,
    weights,
)

SIZE = 32 * MIB
PIECE = 4 * MIB
BLOCK = 16 * 1024
TWICE = MIB
"Blocks that were asked of two peers at the end, at most."
TOLD_S = 40.0


async def fetch(node: Node, digest: str, size: int = SIZE) -> None:
    """The whole file."""
    asked = await weights(node).fetch(WantedFile(digest, size, "f"))
    await asked.wait()
    asked.release()


async def test_sender_and_receiver_tell_the_same_bytes_of_each_other(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    a = await sharing_node(node_factory)
    await weights(a).offer(tmp_path / "f")
    b = await sharing_node(node_factory, address_of(a))
    async with told_by(a) as by_a, told_by(b) as by_b:
        await fetch(b, digest)
        await wait_for(lambda: by_a.succeeded and by_b.succeeded, TOLD_S)
        (got,), (sent,) = by_b.succeeded, by_a.succeeded
    assert (got.peer, got.direction, got.sha256) == (a.id, "from", digest)
    assert (sent.peer, sent.direction, sent.sha256) == (b.id, "to", digest)
    assert got.info_hash == sent.info_hash != ""
    assert got.size_bytes == SIZE
    assert SIZE <= sent.size_bytes <= SIZE + TWICE
    assert 0 < got.duration_s < TOLD_S
    assert not by_a.failed
    assert not by_b.failed


async def test_three_nodes_and_two_torrents_are_kept_apart(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """All nodes have one address, as behind one router; a and b send what c fetches."""
    one, two = (make_file(tmp_path / name, SIZE, seed=len(name)) for name in ("f", "ff"))
    a = await sharing_node(node_factory, upload_limit="12MiB/s")
    b = await sharing_node(node_factory, address_of(a), upload_limit="12MiB/s")
    for node in (a, b):
        for name in ("f", "ff"):
            await weights(node).offer(tmp_path / name)
    c = await sharing_node(node_factory, address_of(a), address_of(b))
    async with told_by(a) as by_a, told_by(b) as by_b, told_by(c) as by_c:
        await asyncio.gather(fetch(c, one), fetch(c, two))

        def sums() -> tuple[int, int, int]:
            sent = [told.bytes_by("to")[c.id] for told in (by_a, by_b)]
            return sum(by_c.bytes_by("from").values()), sent[0], sent[1]

        await wait_for(lambda: sums()[0] >= 2 * SIZE and sum(sums()[1:]) >= 2 * SIZE, TOLD_S)
        got = by_c.bytes_by("from")
    assert set(got) == {a.id, b.id}
    assert sum(got.values()) == 2 * SIZE
    for node, told in ((a, by_a), (b, by_b)):
        assert abs(told.bytes_by("to")[c.id] - got[node.id]) <= 2 * TWICE
        assert set(told.bytes_by("to")) == {c.id}
        assert got[node.id] > 0
    assert {event.sha256 for event in by_c.succeeded} == {one, two}


async def test_no_byte_is_told_twice_over_a_restart(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    a = await sharing_node(node_factory, upload_limit="6MiB/s")
    await weights(a).offer(tmp_path / "f")
    state = tmp_path / "state"
    async with told_by(a) as by_a:
        first = await sharing_node(node_factory, address_of(a), state_dir=state)
        async with told_by(first) as by_first:
            asked = await weights(first).fetch(WantedFile(digest, SIZE, "f"))
            await wait_for(lambda: asked.progress().from_peers >= 2 * PIECE, TOLD_S)
            me = first.id
            await first.stop()
            before = by_first.bytes_by("from")[a.id]
        second = await sharing_node(node_factory, address_of(a), state_dir=state)
        async with told_by(second) as by_second:
            await fetch(second, digest)
            await wait_for(lambda: by_second.bytes_by("from"), TOLD_S)
            await wait_for(lambda: by_a.bytes_by("to")[me] >= SIZE, TOLD_S)
            after = by_second.bytes_by("from")[a.id]
        sent = by_a.bytes_by("to")
    assert second.id == me
    assert before >= PIECE
    assert after <= SIZE - before, "what came before the restart was told then"
    assert before + after >= SIZE - 2 * PIECE, "only the last pieces were not verified"
    assert set(sent) == {me}
    assert sent[me] <= SIZE + 2 * PIECE, "pieces that were begun came again"


async def sent_again(node: Node) -> bool:
    """Whether it sent more than two pieces since it last resumed its only torrent."""
    (row,) = (await called(node, "seeding.torrents"))["torrents"]
    return bool(row["uploaded"] > 2 * PIECE)


async def test_corrupt_pieces_are_told_once_of_the_node_that_sent_them(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """It comes back, and sends more than the file. The node beside it, at the same address, is not
    refused, and has the credit for what it sent: the first block of each piece, or more, since all
    other blocks of the corrupt node are right."""
    digest = make_file(tmp_path / "f", SIZE)
    make_file(tmp_path / "g", SIZE)
    bad = await sharing_node(node_factory, upload_limit="4MiB/s")
    await weights(bad).offer(tmp_path / "f")
    with (tmp_path / "f").open("r+b") as file:
        for piece in range(SIZE // PIECE):
            file.seek(piece * PIECE)
            file.write(b"corrupt")
    good = await sharing_node(node_factory, upload_limit="1MiB/s")
    await weights(good).offer(tmp_path / "g")
    node = await sharing_node(node_factory, address_of(bad), address_of(good))
    async with told_by(node) as told:
        asked = await weights(node).fetch(WantedFile(digest, SIZE, "f"))
        await wait_for(lambda: told.failed, TOLD_S)
        for action in ("pause", "resume"):  # it dials again at once
            await called(bad, f"seeding.{action}", which=digest)
        await wait_for(lambda: sent_again(bad), TOLD_S)
        await asked.wait()
        asked.release()
        await wait_for(lambda: told.bytes_by("from")[good.id] >= SIZE // PIECE * BLOCK, TOLD_S)
    got = told.bytes_by("from")
    assert [(event.peer, event.reason) for event in told.failed] == [(bad.id, "corrupt pieces")]
    assert told.failed[0].sha256 == digest
    assert told.failed[0].size_bytes > 0
    assert got[bad.id] == 0
    assert got.total() == got[good.id] <= SIZE


async def test_daemon_that_is_killed_amid_a_transfer_has_left(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    seeder = await seeding_daemon(daemon_factory, upload_limit="4MiB/s")
    await seeder.call("seeding.share", {"path": str(tmp_path / "f")})
    who = (await seeder.call("node.id"))["id"]
    fetching = await seeding_daemon(daemon_factory, seeder)

    async def has_some() -> bool:
        rows = await torrents(fetching)
        return bool(rows) and int(rows[0]["done"]) >= 2 * PIECE

    async with (
        told_by_daemon(fetching) as told,
        beside(download(fetching, digest), "a download without end"),
    ):
        await wait_for(has_some, TOLD_S, every_s=0.2)
        await seeder.kill()
        await wait_for(lambda: told.failed and told.bytes_by("from")[who], TOLD_S)
        (failed,) = told.failed
    assert (failed.peer, failed.reason, failed.sha256) == (who, "left", digest)
    assert 0 < failed.size_bytes < SIZE
    assert set(told.bytes_by("from")) == {who}
    assert 2 * PIECE <= told.bytes_by("from")[who] < SIZE


async def test_claims_of_a_stranger_take_nothing_and_bring_nothing(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """It has the address of the others, their channels, and all proofs that they give it."""
    digest = make_file(tmp_path / "f", SIZE)
    a = await sharing_node(node_factory, upload_limit="8MiB/s")
    await weights(a).offer(tmp_path / "f")
    stranger = await sharing_node(node_factory, address_of(a))
    b = await sharing_node(node_factory, address_of(a), address_of(stranger))
    transport = stranger.kernel.service(TRANSPORT)
    collected: set[bytes] = set()

    async def claim(at: Node, info_hash: str) -> None:
        stream = await transport.open_stream(at.id, PROTOCOL)
        shown = b"".join(list(collected)[:MOST])
        await stream.write(encode_frame({"hash": bytes.fromhex(info_hash)}, shown))
        with suppress(PeerGone):  # too many
            answer = bytes((await read_frame(stream, max_bytes=64 * 1024)).tail)
            collected.update(answer[n : n + LENGTH] for n in range(0, len(answer), LENGTH))
            await stream.close()

    async with told_by(a) as by_a, told_by(b) as by_b:
        asked = await weights(b).fetch(WantedFile(digest, SIZE, "f"))
        (known,) = await b.kernel.service(TORRENT_INDEXES).get("peers").find(digest)
        while asked.progress().done < SIZE:
            for node in (a, b):
                await claim(node, known.info_hash)
            await asyncio.sleep(0.05)
        await asked.wait()
        asked.release()
        await wait_for(lambda: by_b.bytes_by("from")[a.id] >= SIZE, TOLD_S)
        await wait_for(lambda: by_a.bytes_by("to")[b.id] >= SIZE, TOLD_S)
    assert by_b.bytes_by("from") == {a.id: SIZE}
    assert set(by_a.bytes_by("to")) == {b.id}


async def test_events_reach_whoever_follows_a_daemon(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a)
    async with told_by_daemon(a) as by_a, told_by_daemon(b) as by_b:
        await download(b, digest)
        await wait_for(lambda: by_a.succeeded and by_b.succeeded, TOLD_S)
    assert by_b.bytes_by("from") == {(await a.call("node.id"))["id"]: SIZE}
    assert set(by_a.bytes_by("to")) == {(await b.call("node.id"))["id"]}
