"""How two nodes greet each other: `/aitorrent-hello/1`.

The opener of the stream sends a name and a newline, the other end answers with a greeting and a
newline; both in UTF-8, at most 256 bytes. Whatever a peer sends is untrusted: limit its size and
time, validate it, and raise ProtocolError if it is invalid.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aitorrent_hello.service import Greeter
from aitorrentd.api import AitorrentError, PeerId, ProtocolError, Stream, TimedOut, Transport

PROTOCOL: Final = "/aitorrent-hello/1"
MAX_LINE_BYTES: Final = 256
ANSWER_S: Final = 5.0


async def read_text(stream: Stream) -> str:
    """The next line of a stream, without its newline.

    Raises:
        ProtocolError: not a line of printable UTF-8. TooLarge, PeerGone, TimedOut: as in Stream.
    """
    try:
        async with asyncio.timeout(ANSWER_S):
            line = await stream.read_line(MAX_LINE_BYTES)
    except TimeoutError:
        raise TimedOut(f"no line within {ANSWER_S:g} s") from None
    try:
        text = line.removesuffix(b"\n").decode()
    except UnicodeDecodeError:
        raise ProtocolError("the peer's line is not UTF-8") from None
    if not text or not text.isprintable():
        raise ProtocolError("the peer's line is empty or not printable")
    return text


async def answer(greeter: Greeter, stream: Stream) -> None:
    """Serve one stream that a peer opened."""
    greeting = greeter.greet(await read_text(stream))
    await stream.write(greeting.encode() + b"\n")
    await stream.close()


async def ask(transport: Transport, peer: PeerId, name: str) -> str:
    """Ask a peer to greet `name`.

    Raises:
        AitorrentError: the peer is unreachable, refuses, or violates the protocol.
    """
    stream = await transport.open_stream(peer, PROTOCOL, timeout_s=ANSWER_S)
    try:
        await stream.write(name.encode() + b"\n")
        greeting = await read_text(stream)
        await stream.close()
    except (AitorrentError, asyncio.CancelledError):
        stream.reset("no greeting")
        raise
    return greeting
