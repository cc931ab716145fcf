"""What a stage lets strangers do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.protocol.messages import PROTOCOL, Open, open_header
from aitorrentd.api import Frame, PeerGone, Stream, encode_frame, read_frame
from tests.support.shards.shards_fakes import FakeNode, toy_network, until

pytestmark = pytest.mark.jump_clock


def opening(node: FakeNode, session: bytes = b"s" * 16, **changes: Any) -> dict[str, Any]:
    """A valid request to open all layers of `node` for itself."""
    holder = node.shards.models["toy"].holder
    assert holder is not None
    assert holder.span is not None
    message = Open(session, holder.span.digest, "float32", 0, 6, 100, node.id, True)
    return open_header(message) | {"id": 0} | changes


async def say(stream: Stream, header: dict[str, Any], tail: bytes = b"") -> None:
    await stream.write(encode_frame(header, tail))


async def hear(stream: Stream) -> Frame:
    async with asyncio.timeout(5):
        return await read_frame(stream)


async def ask(node: FakeNode, target: FakeNode, header: dict[str, Any]) -> tuple[Stream, Frame]:
    stream = await node.transport.open_stream(target.id, PROTOCOL)
    await say(stream, header)
    return stream, await hear(stream)


@asynccontextmanager
async def two_nodes(folder: Path, **settings: Any) -> AsyncIterator[tuple[FakeNode, FakeNode]]:
    async with toy_network(folder, "all", "all", **settings) as nodes:
        yield nodes[0], nodes[1]


async def test_session_ends_with_its_control_stream(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (stage, other):
        stream, answer = await ask(other, stage, opening(stage))
        assert answer.header == {"id": 0}
        assert len(stage.workers[0].sessions) == 1
        stream.reset("gone")
        await until(lambda: not stage.workers[0].sessions)
        assert not stage.shards.stage_server.sessions()


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"digest": "other"}, "not_found", "no layers of that model"),
        ({"v": 1}, "unavailable", "speaks version 2 of the shards protocol, not 1; update"),
        ({"v": None, "prompt": None}, "unavailable", "not 1; update the older node"),
        ({"v": 3, "prompt": "?"}, "unavailable", "not 3; update the older node"),
        ({"dtype": "bfloat16"}, "not_found", "loaded here, not 0-6 in bfloat16"),
        ({"start": 3, "end": 9, "last": False}, "not_found", "layers 0-6 in float32 are loaded"),
        ({"end": 3}, "invalid_params", "`last` does not match"),
        ({"last": False}, "invalid_params", "`last` does not match"),
    ],
)
async def test_wrong_opening_is_answered_with_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], code: str, text: str
) -> None:
    async with two_nodes(tmp_path) as (stage, other):
        _, answer = await ask(other, stage, opening(stage, **changes))
        assert answer.header["error"]["code"] == code
        assert text in answer.header["error"]["message"]
        assert not stage.shards.stage_server.sessions()


async def test_session_of_someone_else_cannot_be_opened_again(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (stage, other):
        await ask(other, stage, opening(stage))
        _, answer = await ask(stage, stage, opening(stage))
        assert answer.header["error"]["code"] == "conflict"
        assert len(stage.shards.stage_server.sessions()) == 1


async def test_sessions_of_one_peer_are_limited(tmp_path: Path) -> None:
    async with two_nodes(tmp_path, max_sessions_per_peer=2) as (stage, other):
        for n in range(2):
            _, answer = await ask(other, stage, opening(stage, bytes([n]) * 16))
            assert "error" not in answer.header
        _, answer = await ask(other, stage, opening(stage, b"x" * 16))
        assert answer.header["error"]["code"] == "busy"
        _, answer = await ask(stage, stage, opening(stage, b"y" * 16))
        assert "error" not in answer.header


async def test_sessions_of_all_peers_are_limited(tmp_path: Path) -> None:
    async with two_nodes(tmp_path, max_sessions=1) as (stage, other):
        first, _ = await ask(other, stage, opening(stage))
        _, answer = await ask(stage, stage, opening(stage, b"y" * 16))
        assert answer.header["error"]["code"] == "busy"
        first.reset()
        await until(lambda: not stage.shards.stage_server.sessions())
        _, answer = await ask(stage, stage, opening(stage, b"y" * 16))
        assert "error" not in answer.header


async def test_memory_for_activations_is_admitted(tmp_path: Path) -> None:
    async with two_nodes(tmp_path, journal_budget="1MiB") as (stage, other):
        middle: dict[str, Any] = {"end": 3, "last": False, "max_positions": 100_000}  # 800 kB each
        first, answer = await ask(other, stage, opening(stage, **middle))
        assert "error" not in answer.header
        _, answer = await ask(other, stage, opening(stage, b"y" * 16, **middle))
        assert answer.header["error"]["code"] == "busy"
        assert "activation memory is full" in answer.header["error"]["message"]
        first.reset()
        await until(lambda: not stage.shards.stage_server.sessions())
        _, answer = await ask(other, stage, opening(stage, b"y" * 16, **middle))
        assert "error" not in answer.header


async def test_hop_from_another_peer_than_named_is_refused(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (stage, other):
        await ask(stage, stage, opening(stage))
        _, answer = await ask(other, stage, {"op": "hop", "session": b"s" * 16})
        assert answer.header["error"]["code"] == "not_found"
        _, answer = await ask(stage, stage, {"op": "hop", "session": b"s" * 16})
        assert answer.header == {"have": 0}


@pytest.mark.parametrize(
    ("header", "tail"),
    [
        ({"p": 1, "n": 1}, bytes(4)),
        ({"p": 0, "n": 1}, bytes(5)),
        ({"p": 0, "n": 101}, bytes(404)),
        ({"p": 0, "n": 0}, b""),
        ({"p": 0, "n": 1, "w": [0, "x"]}, bytes(4)),
        ({}, b""),
    ],
)
async def test_bad_frame_ends_the_session_and_says_why(
    tmp_path: Path, header: dict[str, Any], tail: bytes
) -> None:
    async with two_nodes(tmp_path) as (stage, _):
        control, _ = await ask(stage, stage, opening(stage))
        hop, _ = await ask(stage, stage, {"op": "hop", "session": b"s" * 16})
        await say(hop, header, tail)
        event = (await hear(control)).header
        assert (event["event"], event["error"]["code"]) == ("failed", "protocol")
        with pytest.raises(PeerGone):
            await hear(hop)
        await until(lambda: not stage.workers[0].sessions)


async def test_frames_that_were_computed_are_skipped(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (stage, _):
        await ask(stage, stage, opening(stage))
        hop, _ = await ask(stage, stage, {"op": "hop", "session": b"s" * 16})
        for pos in (0, 1, 0, 1, 2):
            await say(hop, {"p": pos, "n": 1}, bytes(4))
        await until(lambda: stage.workers[0].steps == 3)
        again, answer = await ask(stage, stage, {"op": "hop", "session": b"s" * 16})
        assert answer.header == {"have": 3}
        with pytest.raises(PeerGone):
            await hear(hop)
        again.reset()


async def test_ping_is_answered_while_a_link_is_tried(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all", "all", "all", link_timeout_s=5) as nodes:
        stage, other, silent = nodes
        control, _ = await ask(other, stage, opening(stage))
        silent.transport.awake.clear()  # it takes the hop and says nothing
        link = {"op": "link", "id": 1, "peer": silent.id, "addresses": [], "session": b"o" * 16}
        await say(control, link)
        await say(control, {"op": "ping", "id": 2})
        assert (await hear(control)).header["id"] == 2
        silent.transport.awake.set()
        assert (await hear(control)).header["error"]["code"] == "not_found"


async def test_random_frames_leave_the_stage_as_it_was(tmp_path: Path) -> None:
    rng = random.Random(4)
    async with two_nodes(tmp_path) as (stage, other):
        for _ in range(500):
            stream = await other.transport.open_stream(stage.id, PROTOCOL)
            junk = rng.randbytes(rng.randrange(1, 60))
            if rng.random() < 0.5:
                junk = len(junk).to_bytes(4, "big") + junk
            await stream.write(junk)
            stream.reset()
        await until(lambda: not other.net.handlers)
        assert not stage.shards.stage_server.sessions()
        _, answer = await ask(other, stage, opening(stage))
        assert "error" not in answer.header
