"""The head of an answer leaves with what follows it, and never waits for it."""

from __future__ import annotations

import asyncio

from aitorrentd.api.faces.heads import HeadJoining


class Wire(asyncio.Transport):
    """Keeps each write by itself, as a socket would send it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        assert not self.is_closed
        self.sent.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return 5


def joining() -> tuple[Wire, HeadJoining]:
    wire = Wire()
    return wire, HeadJoining(wire, asyncio.get_running_loop())


async def test_head_leaves_in_one_write_with_what_follows() -> None:
    wire, transport = joining()
    transport.hold()
    transport.write(b"head ")
    assert (wire.sent, transport.get_write_buffer_size()) == ([], 10)
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)
    assert (wire.sent, transport.get_write_buffer_size()) == ([b"head body", b"more"], 5)


async def test_head_without_a_body_leaves_in_the_same_iteration() -> None:
    wire, transport = joining()
    transport.hold()
    transport.write(b"head")
    await asyncio.sleep(0)
    assert wire.sent == [b"head"]
    transport.write(b"body")
    assert wire.sent == [b"head", b"body"]


async def test_head_leaves_before_the_end_and_not_after_it() -> None:
    wire, transport = joining()
    transport.hold()
    transport.write(b"head")
    transport.close()
    assert (wire.sent, wire.is_closed) == ([b"head"], True)
    wire, transport = joining()
    transport.hold()
    transport.write(b"head")
    wire.close()  # the client left
    await asyncio.sleep(0)
    assert wire.sent == []


async def test_second_head_of_an_iteration_leaves_after_the_first() -> None:
    wire, transport = joining()
    for answer in (b"1", b"2"):
        transport.hold()
        transport.write(b"head" + answer)
        transport.write(b"body" + answer)
    await asyncio.sleep(0)
    assert b"".join(wire.sent) == b"head1body1head2body2"
