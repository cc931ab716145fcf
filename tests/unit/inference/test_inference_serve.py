"""Answers for peers, through a stream in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from aitorrent_inference.peers.backend import PeerBackend
from aitorrent_inference.peers.generate_protocol import MAX_ANSWER_CHARS, MAX_LINE_BYTES, PROTOCOL
from aitorrent_inference.routing.answer import Answer
from aitorrentd.api import (
    Busy,
    Chunk,
    GenerateRequest,
    GenerationEnded,
    InvalidParams,
    NotFound,
    PeerGone,
    ProtocolError,
    TimedOut,
    Unavailable,
    WireProtocol,
)
from tests.support.inference_fakes import FakeBackend, FakeRouter, make_node, node_id
from tests.support.transport.memory_network import MemoryNetwork
from tests.support.transport.streams import MemoryStream, stream_pair

pytestmark = pytest.mark.jump_clock

ASKED = GenerateRequest(model="m", prompt="hi")
REQUEST = b'{"prompt":"hello","model":"m","params":{}}\n'


async def exchange(node: FakeRouter, request: bytes) -> list[dict[str, Any]]:
    """What the handler answers to `request`."""
    ours, theirs = stream_pair()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(node.handler(theirs))
        await ours.write(request)
        lines = []
        while line := await ours.read_line(MAX_LINE_BYTES):
            lines.append(json.loads(line))
    return lines


async def test_answer_has_the_documented_lines() -> None:
    node = make_node()
    with node.having(FakeBackend("a")):
        lines = await exchange(node, REQUEST)
    at = "2023-11-14T22:13:20.000000Z"
    assert lines == [
        {"model": "m", "created_at": at, "response": "one ", "done": False},
        {"model": "m", "created_at": at, "response": "two", "done": False},
        {
            "model": "m",
            "created_at": at,
            "response": "",
            "done": True,
            "done_reason": "stop",
            "context": [1, 2, 3],
            "total_duration": 0,
            "prompt_eval_count": 3,
            "prompt_eval_duration": 0,
            "eval_count": 2,
            "eval_duration": 0,
        },
    ]


async def test_text_of_the_last_chunk_gets_its_own_line() -> None:
    node = make_node()
    last = Chunk("end", done=True, reason="length")
    with node.having(FakeBackend("a", words=["", "x"], last=last)):
        lines = await exchange(node, REQUEST)
    assert [(line["response"], line["done"]) for line in lines] == [
        ("x", False),
        ("end", False),
        ("", True),
    ]
    assert lines[-1]["done_reason"] == "length"


async def test_thinking_reaches_a_peer_apart_from_the_answer() -> None:
    class Thinker(FakeBackend):
        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
            yield Chunk("", thinking="let me ")
            yield Chunk("one")
            yield Chunk("", done=True, reason="stop", thinking="see")

    net = MemoryNetwork()
    asker, thinker = make_node(0, net), make_node(1, net)
    with thinker.having(Thinker("a")):
        lines = await exchange(thinker, REQUEST)
        assert [line.get("thinking") for line in lines] == ["let me ", None, "see", None]
        name = f"peer:{thinker.id}"
        chunks = [c async for c in asker.router.generate(ASKED, backend=name)]
    assert "".join(c.thinking for c in chunks) == "let me see"
    assert "".join(c.text for c in chunks) == "one"
    await net.close()


async def test_warning_and_hidden_thinking_reach_a_peer() -> None:
    net = MemoryNetwork()
    asker, server = make_node(0, net), make_node(1, net)
    last = Chunk(
        "",
        done=True,
        reason="length",
        completion_tokens=9,
        extra={"reasoning_tokens": 9, "tokens_per_s": 1.5},
        warning="the prompt was truncated",
    )
    answer = Answer()
    with server.having(FakeBackend("a", words=[], last=last)):
        chunks = asker.router.generate(ASKED, backend=f"peer:{server.id}", answer=answer)
        assert [c.warning async for c in chunks] == ["the prompt was truncated"]
        lines = await exchange(server, REQUEST)
    assert "all 9 tokens went into thinking, which the server does not send" in answer.note
    assert (lines[-1]["reasoning_tokens"], lines[-1]["done_reason"]) == (9, "length")
    await net.close()


async def test_request_without_a_model_gets_the_default_and_context_goes_through() -> None:
    node = make_node()
    backend = FakeBackend("a", ["first", "second"])
    with node.having(backend):
        lines = await exchange(node, b'{"prompt":"p","params":{"context":[5,6],"num_predict":9}}\n')
    assert lines[0]["model"] == "first"
    assert backend.requests[0].params.context == (5, 6)
    assert backend.requests[0].params.max_tokens == 9


async def test_request_that_ends_without_a_newline_is_answered() -> None:
    node = make_node()
    ours, theirs = stream_pair()
    with node.having(FakeBackend("a")):
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(node.handler(theirs))
            await ours.write(REQUEST.rstrip())
            await ours.close_write()
            assert json.loads(await ours.read_line())["response"] == "one "


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"nonsense\n", "bad request: Invalid JSON"),
        (b"{}\n", 'bad request: give either "prompt"'),
        (b'{"prompt":"a","model":"zz"}\n', "no model 'zz' here; available models: m"),
        (b"x" * (MAX_LINE_BYTES + 1), "a request has at most 1048576 bytes"),
    ],
)
async def test_bad_request_gets_one_error_line(request_line: bytes, error: str) -> None:
    node = make_node()
    with node.having(FakeBackend("a")):
        lines = await exchange(node, request_line)
    assert len(lines) == 1
    assert lines[0]["error"].startswith(error)


async def test_error_in_the_middle_is_the_last_line() -> None:
    node = make_node()
    with node.having(FakeBackend("a", fails=Unavailable("layers 4-8 were lost"))):
        lines = await exchange(node, REQUEST)
    assert [line.get("response") for line in lines] == ["one ", "two", None]
    assert lines[-1] == {"error": "layers 4-8 were lost", "code": "unavailable"}


async def test_one_request_too_many_hears_so_and_the_others_go_on() -> None:
    node = make_node(max_concurrent=1)
    backend = FakeBackend("a")
    backend.gate = asyncio.Event()
    with node.having(backend):
        async with asyncio.TaskGroup() as group:
            first = group.create_task(exchange(node, REQUEST))
            await backend.asked.wait()
            assert await exchange(node, REQUEST) == [{"error": "Too many requests", "code": "busy"}]
            backend.gate.set()
    assert first.result()[-1]["done"] is True
    assert node.handler.slots.used == 0


async def test_peers_may_use_only_what_is_offered() -> None:
    node = make_node(announce=["public", "pub"], capabilities={"pub": "private"})
    with node.having(FakeBackend("a", ["private", "public"])):
        assert (
            "no model 'private' here"
            in (await exchange(node, REQUEST.replace(b'"m"', b'"private"')))[0]["error"]
        )
        assert (await exchange(node, REQUEST.replace(b'"m"', b'"public"')))[-1]["done"] is True
        assert (await exchange(node, REQUEST.replace(b'"m"', b'"pub"')))[-1]["model"] == "pub"
    silent = make_node(announce=False)
    with silent.having(FakeBackend("a")):
        assert (await exchange(silent, REQUEST))[0]["code"] == "not_found"


async def test_answer_for_a_peer_never_asks_another_peer() -> None:
    net = MemoryNetwork()
    node, other = make_node(0, net), make_node(1, net)
    other.directory.publish("ait:cap:m", {"v": 1})
    with other.having(FakeBackend("a")):
        lines = await exchange(node, REQUEST)
    assert lines == [{"error": "no model 'm' here", "code": "not_found"}]
    assert net.opened == []


async def vanishing(
    node: FakeRouter, backend: FakeBackend, *, window: int = 65_536
) -> MemoryStream:
    ours, theirs = stream_pair(window=window)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(node.handler(theirs))
        await ours.write(REQUEST)
        await backend.asked.wait()
        ours.reset("bye")
        await backend.stopped.wait()
    return theirs


async def test_client_that_vanishes_before_the_first_word_stops_the_backend() -> None:
    node = make_node()
    backend = FakeBackend("a", words=[], hangs=True)
    with node.having(backend):
        await vanishing(node, backend)
    assert backend.running == 0
    assert node.handler.slots.used == 0
    assert isinstance(node.events[-1], GenerationEnded)
    assert node.events[-1].reason == "cancelled"


async def test_client_that_vanishes_while_the_window_is_full_stops_the_backend() -> None:
    node = make_node()
    backend = FakeBackend("a", words=["x" * 1000] * 1000)
    with node.having(backend):
        await vanishing(node, backend, window=2000)
    assert backend.running == 0
    assert node.handler.slots.used == 0


async def test_half_closed_client_still_gets_its_answer_and_its_reset_is_noticed() -> None:
    node = make_node()
    backend = FakeBackend("a", words=["x"], hangs=True)
    ours, theirs = stream_pair()
    with node.having(backend):
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(node.handler(theirs))
            await ours.write(REQUEST)
            await ours.close_write()
            assert json.loads(await ours.read_line())["response"] == "x"
            ours.reset("bye")
            await backend.stopped.wait()


async def test_reader_that_takes_nothing_loses_its_slot() -> None:
    node = make_node()
    backend = FakeBackend("a", words=["x" * 1000] * 1000)
    ours, theirs = stream_pair(window=2000)
    with node.having(backend):
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            group.create_task(node.handler(theirs))
            await ours.write(REQUEST)
            await backend.stopped.wait()
    assert theirs.reset_reason == "the client read nothing for 60 s"
    assert node.handler.slots.used == 0


async def test_client_that_never_asks_is_sent_away() -> None:
    node = make_node()
    ours, theirs = stream_pair()
    await node.handler(theirs)
    assert json.loads(await ours.read_line())["error"] == "no request arrived within 30 s"
    assert theirs.closed


async def test_client_that_floods_the_stream_is_dropped() -> None:
    node = make_node()
    backend = FakeBackend("a", words=[], hangs=True)
    ours, theirs = stream_pair()
    with node.having(backend):
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(node.handler(theirs))
            await ours.write(REQUEST)
            with pytest.raises(PeerGone, match="went away"):
                await ours.write(b"x" * 2 * MAX_LINE_BYTES)
    assert backend.stopped.is_set()


# the asking side


def asking(net: MemoryNetwork, **timeouts: Any) -> PeerBackend:
    return PeerBackend(node_id(1), make_node(0, net).transport, **timeouts)


async def replies(lines: bytes, *, end: bool = True) -> list[Chunk]:
    """What a peer that answers with exactly `lines` is understood to say."""
    net = MemoryNetwork()

    async def handler(stream: Any) -> None:
        await stream.read_line()
        await stream.write(lines)
        if not end:
            await asyncio.Event().wait()

    backend = asking(net, first_token_timeout_s=0.2, token_timeout_s=0.1)
    net.join(node_id(1), WireProtocol(PROTOCOL, handler))
    try:
        async with asyncio.timeout(5):
            return [c async for c in backend.generate(GenerateRequest(model="m", prompt="p"))]
    finally:
        await net.close()


TEXT = b'{"model":"m","created_at":"x","response":"hi","done":false}\n'
DONE = b'{"model":"m","created_at":"x","response":"","done":true,"done_reason":"stop"}\n'


async def test_peers_answer_becomes_chunks() -> None:
    assert await replies(TEXT + DONE) == [Chunk("hi"), Chunk("", done=True, reason="stop")]


@pytest.mark.parametrize(
    ("lines", "error", "text"),
    [
        (b"", PeerGone, "closed the stream before its answer was complete"),
        (TEXT, PeerGone, "closed the stream before its answer was complete"),
        (TEXT + DONE[:20], PeerGone, "closed the stream before its answer was complete"),
        (TEXT + b"{}{}\n", ProtocolError, "bad answer line"),
        (b"x" * (MAX_LINE_BYTES + 2), ProtocolError, "a line that is too long"),
        (b'{"error":"Too many requests"}\n', Busy, "peer ….{8}: Too many requests"),
        (b'{"error":"no","code":"not_found"}\n', NotFound, "peer ….{8}: no"),
    ],
)
async def test_bad_answer_of_a_peer_is_an_error(
    lines: bytes, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await replies(lines)


async def test_peer_that_falls_silent_is_given_up() -> None:
    with pytest.raises(TimedOut, match=r"did not continue within 0\.2 s"):
        await replies(b"", end=False)
    with pytest.raises(TimedOut, match=r"did not continue within 0\.1 s"):
        await replies(TEXT, end=False)


async def test_endless_answer_of_a_peer_is_cut() -> None:
    long = TEXT.replace(b"hi", b"x" * (MAX_LINE_BYTES - 100))
    with pytest.raises(ProtocolError, match=f"over {MAX_ANSWER_CHARS} chars"):
        await replies(long * 17)


async def test_request_too_long_for_a_line_is_refused_before_it_is_sent() -> None:
    net = MemoryNetwork()
    with pytest.raises(InvalidParams, match="peers accept at most 1048576"):
        await anext(asking(net).generate(GenerateRequest(prompt="x" * MAX_LINE_BYTES)))
    assert net.opened == []


async def test_giving_up_an_answer_stops_the_peers_backend() -> None:
    net = MemoryNetwork()
    remote = make_node(1, net)
    backend = FakeBackend("a", hangs=True)
    with remote.having(backend):
        answer = asking(net).generate(GenerateRequest(model="m", prompt="p"))
        assert (await anext(answer)).text == "one "
        await answer.aclose()
        async with asyncio.timeout(5):
            await backend.stopped.wait()
    await net.close()
    assert remote.handler.slots.used == 0


async def test_complete_answer_closes_the_stream_in_order() -> None:
    net = MemoryNetwork()
    remote = make_node(1, net)
    with remote.having(FakeBackend("a")):
        answer = asking(net).generate(GenerateRequest(model="m", prompt="p"))
        assert [c.text async for c in answer] == ["one ", "two", ""]
    assert net.streams[0].reset_reason is None
    assert net.streams[0].closed
    await net.close()
