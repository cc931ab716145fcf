"""Peers that are asked about torrents, and what they may answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aitorrent_seeding.sources.asking import PeerIndex
from aitorrentd.api import Busy, PeerGone, PeerId, encode_frame
from aitorrentd.api.models.weights import KnownTorrent
from tests.support.clocks import FakeClock

PEER = PeerId("12D3KooWPeer")
DIGEST, HASH = "ab" * 32, "cd" * 20
TORRENT = KnownTorrent(DIGEST, 7000, HASH, 4 * 2**20, metainfo=b"d4:infodee")


class Pipe:
    """One end of a stream: what was written, and what is read."""

    peer = PEER

    def __init__(self, incoming: bytes = b"") -> None:
        self.incoming = incoming
        self.written = bytearray()
        self.ended = ""

    async def read_exactly(self, n: int) -> bytes:
        if len(self.incoming) < n:
            raise PeerGone("ended")
        part, self.incoming = self.incoming[:n], self.incoming[n:]
        return part

    async def write(self, part: bytes) -> None:
        self.written += part

    async def close(self) -> None:
        self.ended = "closed"

    def reset(self, reason: str = "") -> None:
        self.ended = "reset"


class View:
    id = PEER
    host = "192.0.2.7"
    route = "direct"


class Network:
    """A transport with one peer, which answers `answer` to everything."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.view = View()
        self.pipes: list[Pipe] = []

    def peers(self) -> Sequence[View]:
        return [self.view]

    def peer(self, peer: PeerId) -> View:
        return self.view

    async def open_stream(self, peer: PeerId, protocol: str) -> Pipe:
        self.pipes.append(Pipe(self.answer))
        return self.pipes[-1]


class Shelf:
    def known(self, *, sha256: str, info_hash: str) -> KnownTorrent | None:
        return TORRENT if sha256 == DIGEST or info_hash == HASH else None


def index(network: Any = None, *, shares: Any = None, port: int = 6881) -> PeerIndex:
    transport: Any = network or Network(b"")
    return PeerIndex(transport, lambda: shares, lambda: port, FakeClock())


async def served(question: dict[str, Any], **known: Any) -> bytes:
    pipe: Any = Pipe(encode_frame(question))
    await index(**known).handle(pipe)
    assert pipe.ended == "closed"
    return bytes(pipe.written)


async def test_question_and_answer_fit_each_other() -> None:
    question = {"file": bytes.fromhex(DIGEST), "hash": b""}
    answer = await served(question, shares=Shelf())
    network = Network(answer)
    (found,) = await index(network).ask_all(sha256=DIGEST)
    assert found.torrent.info_hash == HASH
    assert found.torrent.metainfo == TORRENT.metainfo
    assert (found.host, found.port, found.peer) == ("192.0.2.7", 6881, PEER)
    assert network.pipes[0].written == encode_frame(question)


@pytest.mark.parametrize("known", [{}, {"shares": Shelf(), "port": 0}])
async def test_node_that_shares_nothing_answers_nothing(known: dict[str, Any]) -> None:
    answer = await served({"file": bytes.fromhex(DIGEST), "hash": b""}, **known)
    assert answer == encode_frame({})
    assert await index(Network(answer)).ask_all(sha256=DIGEST) == []


async def test_host_of_a_relay_is_not_the_host_of_the_peer() -> None:
    network = Network(await served({"file": b"", "hash": bytes.fromhex(HASH)}, shares=Shelf()))
    network.view.route = "relay"
    (found,) = await index(network).ask_all(info_hash=HASH)
    assert found.host == ""


GOOD = {"hash": bytes(20), "size": 5, "piece": 16_384, "port": 6881}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\xff\xff\xff",
        encode_frame({**GOOD, "hash": bytes(19)}),
        encode_frame({**GOOD, "size": -1}),
        encode_frame({**GOOD, "size": 2**60}),
        encode_frame({**GOOD, "piece": 1}),
        encode_frame({**GOOD, "port": 22}),
        encode_frame({**GOOD, "port": "6881"}),
        encode_frame({"hash": bytes(20)}),
    ],
)
async def test_hostile_answer_counts_as_none(answer: bytes) -> None:
    network = Network(answer)
    assert await index(network).ask_all(sha256=DIGEST) == []


async def test_peer_that_asks_too_often_is_refused() -> None:
    asked = index(shares=Shelf())
    question = encode_frame({"file": bytes(32), "hash": b""})
    pipes: list[Any] = [Pipe(question) for _ in range(501)]
    for pipe in pipes[:500]:
        await asked.handle(pipe)
    with pytest.raises(Busy, match="too many questions"):
        await asked.handle(pipes[500])
