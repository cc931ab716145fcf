"""Frames taken where their bytes arrive, and bytes written without waiting."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_transport.streams.loopback import local_streams
from aitorrent_transport.streams.sending import SEND_QUEUE_BYTES
from aitorrentd.api import (
    Conflict,
    PeerGone,
    Priority,
    ProtocolError,
    Stream,
    encode_frame,
    read_frame,
)
from tests.support.nodes import wait_for
from tests.unit.transport.streams.test_streams import A, Ends

MAX = 64 * 2**20
Pair = Callable[[], Awaitable[tuple[Stream, Stream]]]


def local() -> tuple[Stream, Stream]:
    return local_streams(A, "/test/1", Priority.TENSOR, lambda: 0.0)


@pytest.fixture(params=["channel", "local"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Stream, Stream]]:
    if request.param == "local":
        yield local()
    else:
        async with Ends() as ends:
            yield await ends.streams(Priority.TENSOR)


class Reader:
    """Takes every frame of a stream as soon as it is there."""

    def __init__(self, stream: Stream, *, max_bytes: int = MAX) -> None:
        self.stream, self.max_bytes = stream, max_bytes
        self.taken: list[tuple[int, bytes]] = []
        self.ended: Exception | None = None
        self.on_frame: Callable[[int], object] = lambda n: None
        self.go_on()

    def go_on(self) -> None:
        try:
            while (frame := self.stream.take_frame(max_bytes=self.max_bytes)) is not None:
                self.taken.append((frame.header["n"], bytes(frame.tail)))
                self.on_frame(frame.header["n"])
        except (PeerGone, ProtocolError) as e:
            self.ended = e
        else:
            self.stream.when_frame(self.go_on)


def framed(n: int, tail: bytes = b"") -> bytes:
    return encode_frame({"n": n}, tail)


async def test_frames_of_every_size_arrive_whole_and_in_order(pair: tuple[Stream, Stream]) -> None:
    near, far = pair
    sent = [(n, os.urandom(size)) for n, size in enumerate((0, 1, 5, 60_000, 300_000, 3_000_000))]
    reader = Reader(far)
    for n, tail in sent:
        await near.write(framed(n, tail))
    await wait_for(lambda: len(reader.taken) == len(sent))
    assert reader.taken == sent


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1))
def test_frames_do_not_depend_on_how_their_bytes_are_cut(
    tails: list[bytes], cuts: list[int]
) -> None:
    async def run() -> None:
        near, far = local()
        reader = Reader(far)
        rest = b"".join(framed(n, tail) for n, tail in enumerate(tails))
        at = 0
        while rest:
            piece, rest = rest[: cuts[at % len(cuts)]], rest[cuts[at % len(cuts)] :]
            assert near.write_now(piece)
            at += 1
        assert reader.taken == list(enumerate(tails))

    asyncio.run(run())


async def test_reader_that_writes_from_within_does_not_disturb_what_is_arriving() -> None:
    near, far = local()
    there, back = Reader(far), Reader(near)
    there.on_frame = lambda n: far.write_now(framed(n))
    big = os.urandom(200_000)
    assert near.write_now(framed(1), framed(2, big), framed(3, big))
    assert there.taken == [(1, b""), (2, big), (3, big)]
    assert back.taken == [(1, b""), (2, b""), (3, b"")]


async def test_two_ends_that_answer_each_other_do_not_pile_up_calls() -> None:
    near, far = local()
    there, back = Reader(far), Reader(near)
    there.on_frame = lambda n: far.write_now(framed(n))
    back.on_frame = lambda n: n < 5000 and near.write_now(framed(n + 1))
    near.write_now(framed(1))
    assert there.taken[-1] == back.taken[-1] == (5000, b"")


async def test_too_long_frame_is_refused_by_its_length(pair: tuple[Stream, Stream]) -> None:
    near, far = pair
    reader = Reader(far, max_bytes=1000)
    await near.write(framed(1, bytes(2000))[:4])
    await wait_for(lambda: reader.ended)
    assert isinstance(reader.ended, ProtocolError)
    assert "frame of 2006 bytes; allowed are 2 to 1000" in str(reader.ended)


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_end_in_the_middle_of_a_frame_is_told(pair: tuple[Stream, Stream], end: str) -> None:
    near, far = pair
    reader = Reader(far)
    await near.write(framed(1, b"abc")[:-1])
    if end == "close":
        await near.close_write()
    else:
        near.reset("lost interest")
    await wait_for(lambda: reader.ended)
    text = {"close": "ended after 12 of 13 bytes", "reset": "lost interest"}[end]
    assert isinstance(reader.ended, PeerGone)
    assert text in str(reader.ended)


async def test_bug_of_a_reader_costs_its_stream_and_not_the_channel() -> None:
    async with Ends() as ends:
        near, far = await ends.streams()
        reader = Reader(far)
        reader.on_frame = lambda n: 1 // 0
        await near.write(framed(1))
        with pytest.raises(PeerGone, match="the reader failed"):
            await near.read(1)
        near, far = await ends.streams()
        await near.write(framed(2))
        assert (await read_frame(far)).header == {"n": 2}
        assert not ends.closed


async def test_reader_hears_that_its_own_end_closes(pair: tuple[Stream, Stream]) -> None:
    near, far = pair
    reader, reading = Reader(far), asyncio.create_task(near.read(1))
    await asyncio.sleep(0)
    await far.close()
    assert "closed here" in str(reader.ended)
    await near.close()
    with pytest.raises(PeerGone, match="closed here"):
        await reading


async def test_nothing_is_taken_after_a_reader_resets_the_stream(
    pair: tuple[Stream, Stream],
) -> None:
    near, far = pair
    reader = Reader(far)
    reader.on_frame = lambda n: far.reset("enough")
    assert near.write_now(framed(1), framed(2), framed(3))
    await wait_for(lambda: reader.ended)
    assert reader.taken == [(1, b"")]
    with pytest.raises(PeerGone, match="enough"):
        far.take_frame(max_bytes=MAX)
    with pytest.raises(PeerGone, match="enough"):
        await near.read(1)


async def test_two_readers_are_a_bug_that_shows() -> None:
    _, far = local()
    Reader(far)
    with pytest.raises(RuntimeError, match="two readers"):
        far.when_frame(lambda: None)
    with pytest.raises(RuntimeError, match="two readers"):
        await far.read(1)


async def test_write_now_takes_all_or_nothing(pair: tuple[Stream, Stream]) -> None:
    near, far = pair
    part = bytes(SEND_QUEUE_BYTES // 4)
    written = 0
    while near.write_now(b"", part, memoryview(part)):
        written += 2 * len(part)
    assert written >= SEND_QUEUE_BYTES // 2
    rest = asyncio.create_task(near.write(b"end"))
    assert await far.read_exactly(written + 3) == bytes(written) + b"end"
    await rest
    assert near.write_now(b"more")
    assert await far.read(9) == b"more"


async def test_write_now_does_not_overtake_a_write_that_waits(pair: tuple[Stream, Stream]) -> None:
    near, far = pair
    size = 20 * SEND_QUEUE_BYTES
    writing = asyncio.create_task(near.write(bytes(size)))
    await asyncio.sleep(0)
    assert not near.write_now(b"x")
    await far.read_exactly(size)
    await writing
    assert near.write_now(b"x")
    assert await far.read(1) == b"x"


async def test_write_now_on_a_stream_that_is_over_is_an_error(pair: tuple[Stream, Stream]) -> None:
    near, _ = pair
    await near.close_write()
    with pytest.raises(Conflict, match="closed for writing"):
        near.write_now(b"x")
    near.reset("over")
    with pytest.raises(PeerGone, match="over"):
        near.write_now(b"x")
