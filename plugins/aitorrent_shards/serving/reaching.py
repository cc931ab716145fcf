"""Tells coordinators whether this node can reach another one, before an answer needs that link."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aitorrent_shards.protocol.messages import (
    MAX_CONTROL_BYTES,
    PROTOCOL,
    REACH_S,
    Hello,
    Reach,
    request_id,
)
from aitorrentd.api import (
    AitorrentError,
    Busy,
    PeerId,
    ProtocolError,
    Stream,
    TimedOut,
    Transport,
    encode_frame,
    error_from_map,
    read_frame,
)
from aitorrentd.api.limits import PerPeer, Slots, TokenBucket

AT_ONCE: Final = 8
"Attempts for all peers together; each may take a dial."
RATE: Final = 0.5
BURST: Final = 16
"Attempts for one peer: this many at once, and RATE a second on average."


class LinkTester:
    """Answers `hello` and `reach`, within limits: peers choose whom this node dials."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._slots = Slots(AT_ONCE)
        self._rates = PerPeer(lambda: TokenBucket(RATE, BURST, _now()))

    async def answer(self, asker: PeerId, request: Hello | Reach) -> None:
        """Return if that node can be reached.

        Raises:
            Busy: over a limit. Unavailable, TimedOut, ProtocolError: it cannot. Other
            AitorrentErrors: as it answered.
        """
        if isinstance(request, Hello) or request.peer == self._transport.node_id:
            return
        with self._admitted(asker):
            refusal = await ask_once(
                self._transport, request.peer, request.addresses, {"op": "hello"}, timeout_s=REACH_S
            )
        if refusal is not None:
            raise refusal

    @contextmanager
    def _admitted(self, asker: PeerId) -> Iterator[None]:
        if not self._rates.of(asker).take(_now()):
            raise Busy("too many links to test; ask again later")
        with self._slots.taken():
            yield


async def ask_once(
    transport: Transport,
    peer: PeerId,
    addresses: tuple[str, ...],
    request: dict[str, Any],
    *,
    timeout_s: float,
) -> AitorrentError | None:
    """Ask a peer a question on a stream of its own; returns the error that it answers, if any.

    Raises:
        Unavailable: not reachable. TimedOut: no answer. ProtocolError: not an answer.
    """
    stream: Stream | None = None
    try:
        async with asyncio.timeout(timeout_s):
            stream = await transport.open_stream(
                peer, PROTOCOL, timeout_s=timeout_s, addresses=addresses
            )
            await stream.write(encode_frame({**request, "id": 0}))
            header = (await read_frame(stream, max_bytes=MAX_CONTROL_BYTES)).header
    except TimeoutError:
        raise TimedOut(f"no answer within {timeout_s:g} s") from None
    finally:
        if stream is not None:
            stream.reset("asked")
    if request_id(header) != 0:
        raise ProtocolError("the answer is to another question")
    return error_from_map(header["error"]) if "error" in header else None


def _now() -> float:
    return asyncio.get_running_loop().time()
