"""Nodes prove to each other, over their channel, which BitTorrent connections are between them.

libtorrent has no messages of ours in its connections, so what binds one to a node goes over the
authenticated channel of the nodes. A stream of `/ai-torrent/1/transfers` has the info-hash and the
proofs of one node, and the other's proofs as the answer; both learn whose connections they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from aitorrent_seeding.crediting.proofs import LENGTH, MOST, bind, proofs_for
from aitorrent_seeding.session.links import Link
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Clock,
    Frame,
    PeerId,
    ProtocolError,
    Stream,
    Transport,
    encode_frame,
    read_frame,
)
from aitorrentd.api.fields import blob
from aitorrentd.api.limits import PerPeer, TokenBucket

PROTOCOL: Final = "/ai-torrent/1/transfers"
MAX_STREAMS: Final = 4
ASK_S: Final = 4.0
_MAX_BYTES: Final = LENGTH * MOST + 256
_PER_S: Final = 2.0
_BURST: Final = 50.0


class Claims:
    """Makes claims, and judges those of others."""

    def __init__(
        self,
        transport: Transport,
        links_of: Callable[[str], Awaitable[Iterable[Link]]],
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._links_of = links_of
        self._clock = clock
        self._rates = PerPeer(lambda: TokenBucket(_PER_S, _BURST, clock.monotonic()))

    @property
    def _me(self) -> PeerId:
        return self._transport.node_id

    async def handle(self, stream: Stream) -> None:
        """Judge a claim, and answer with one."""
        if not self._rates.of(stream.peer).take(self._clock.monotonic()):
            raise Busy("too many claims of transfers")
        async with asyncio.timeout(ASK_S):
            info_hash, given = _read(await read_frame(stream, max_bytes=_MAX_BYTES))
        links = list(await self._links_of(info_hash))
        self._bind(stream.peer, given, links, info_hash)
        ours = [link for link in links if link.node in (None, stream.peer)]
        await stream.write(self._frame(stream.peer, info_hash, ours))
        await stream.close()

    async def claim(self, peer: PeerId, info_hash: str, links: Sequence[Link]) -> int:
        """Prove these connections to `peer`; returns how many turn out to be with it."""
        try:
            async with asyncio.timeout(ASK_S):
                stream = await self._transport.open_stream(peer, PROTOCOL)
                try:
                    await stream.write(self._frame(peer, info_hash, links))
                    answered, given = _read(await read_frame(stream, max_bytes=_MAX_BYTES))
                    await stream.close()
                except BaseException:
                    stream.reset("no answer")
                    raise
        except (AitorrentError, TimeoutError):
            return 0
        if answered != info_hash:
            return 0
        return self._bind(peer, given, links, info_hash)

    def _bind(
        self, peer: PeerId, given: frozenset[bytes], links: Sequence[Link], info_hash: str
    ) -> int:
        view = self._transport.peer(peer)
        host = view.host if view is not None and view.route != "relay" else ""
        return bind(peer, given, links, judge=self._me, host=host, info_hash=info_hash)

    def _frame(self, judge: PeerId, info_hash: str, links: Sequence[Link]) -> bytes:
        proofs = proofs_for(judge, links, prover=self._me, info_hash=info_hash)
        return encode_frame({"hash": bytes.fromhex(info_hash)}, b"".join(proofs))


def _read(frame: Frame) -> tuple[str, frozenset[bytes]]:
    info_hash = blob(frame.header, "hash", 20, 20).hex()
    proofs = bytes(frame.tail)
    if len(proofs) % LENGTH or len(proofs) > LENGTH * MOST:
        raise ProtocolError(f"proofs have {LENGTH} bytes each, {MOST} at most")
    return info_hash, frozenset(proofs[at : at + LENGTH] for at in range(0, len(proofs), LENGTH))
