"""The index among connected peers: a node asks them over its channels who shares a file.

Every node answers `/ai-torrent/1/torrents` from memory, so a peer may share any number of files. A
stream carries one question and one answer. The question has the SHA-256 of a file or the info-hash
of a torrent; the answer, if there is one, says how the torrent is called, on which port the peer
accepts BitTorrent peers, and has the .torrent file as its tail, which saves fetching it by BEP 9.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aitorrentd.api import (
    AitorrentError,
    Busy,
    Clock,
    Frame,
    PeerId,
    Stream,
    Transport,
    encode_frame,
    read_frame,
)
from aitorrentd.api.fields import blob, whole
from aitorrentd.api.limits import PerPeer, TokenBucket
from aitorrentd.api.models.weights import KnownTorrent

PROTOCOL: Final = "/ai-torrent/1/torrents"
MAX_STREAMS: Final = 8
MOST_ASKED: Final = 64
"Peers that are asked about one file."
ASK_S: Final = 4.0
_MAX_QUESTION: Final = 256
_MAX_ANSWER: Final = 8 * 2**20
_PER_S: Final = 50.0
_BURST: Final = 500.0
_MAX_SIZE: Final = 2**50
_MAX_PIECE: Final = 2**28


class Shares(Protocol):
    """What this node shares."""

    def known(self, *, sha256: str, info_hash: str) -> KnownTorrent | None:
        """The torrent of a file, or with an info-hash; an empty string does not matter."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer answered."""

    torrent: KnownTorrent
    peer: PeerId
    host: str
    "The host of its channel; empty if that goes through a relay."
    port: int


class PeerIndex:
    """Asks connected peers, and answers them."""

    def __init__(
        self,
        transport: Transport,
        shares: Callable[[], Shares | None],
        port: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._shares = shares
        self._port = port
        self._clock = clock
        self._rates = PerPeer(lambda: TokenBucket(_PER_S, _BURST, clock.monotonic()))

    async def handle(self, stream: Stream) -> None:
        """Answer one question."""
        if not self._rates.of(stream.peer).take(self._clock.monotonic()):
            raise Busy("too many questions about torrents")
        async with asyncio.timeout(ASK_S):
            question = (await read_frame(stream, max_bytes=_MAX_QUESTION)).header
            sha256 = blob(question, "file", 0, 32).hex()
            info_hash = blob(question, "hash", 0, 20).hex()
        shares = self._shares()
        torrent = shares.known(sha256=sha256, info_hash=info_hash) if shares else None
        if torrent is None or not self._port():
            await stream.write(encode_frame({}))
        else:
            raw = torrent.metainfo if len(torrent.metainfo) < _MAX_ANSWER // 2 else b""
            header = {
                "hash": bytes.fromhex(torrent.info_hash),
                "size": torrent.size,
                "piece": torrent.piece_length,
                "port": self._port(),
            }
            await stream.write(encode_frame(header, raw))
        await stream.close()

    async def ask_all(self, *, sha256: str = "", info_hash: str = "") -> list[Answer]:
        """What connected peers answer in time."""
        peers = [view.id for view in self._transport.peers()[:MOST_ASKED]]
        answers = await asyncio.gather(*(self._ask(peer, sha256, info_hash) for peer in peers))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, peer: PeerId, sha256: str, info_hash: str) -> Answer | None:
        question = {"file": bytes.fromhex(sha256), "hash": bytes.fromhex(info_hash)}
        try:
            async with asyncio.timeout(ASK_S):
                stream = await self._transport.open_stream(peer, PROTOCOL)
                try:
                    await stream.write(encode_frame(question))
                    answer = await read_frame(stream, max_bytes=_MAX_ANSWER)
                    await stream.close()
                except BaseException:
                    stream.reset("no answer")
                    raise
            return self._read(peer, sha256, answer)
        except (AitorrentError, TimeoutError):
            return None

    def _read(self, peer: PeerId, sha256: str, frame: Frame) -> Answer | None:
        fields: Mapping[str, Any] = frame.header
        if not fields:
            return None
        view = self._transport.peer(peer)
        is_direct = view is not None and view.route != "relay"
        torrent = KnownTorrent(
            sha256=sha256,
            size=whole(fields, "size", 1, _MAX_SIZE),
            info_hash=blob(fields, "hash", 20, 20).hex(),
            piece_length=whole(fields, "piece", 16_384, _MAX_PIECE),
            metainfo=bytes(frame.tail),
            publisher=peer,
        )
        port = whole(fields, "port", 1024, 65_535)
        return Answer(torrent, peer, view.host if view and is_direct else "", port)
