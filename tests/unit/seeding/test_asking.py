"""Peers that are asked about torrents, and what they may answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aitorrent_seeding.sources.asking import PROTOCOL, PeerIndex
from aitorrentd.api import Busy, PeerId, Stream, WireProtocol, encode_frame, peer_id, read_frame
from aitorrentd.api.models.weights import KnownTorrent
from tests.support.clocks import FakeClock
from tests.support.transport.memory_network import MemoryNetwork

ME, PEER = (peer_id(random.Random(n).randbytes(32)) for n in range(2))
DIGEST, HASH = "ab" * 32, "cd" * 20
TORRENT = KnownTorrent(DIGEST, 7000, HASH, 4 * 2**20, metainfo=b"d4:infodee")


class Shelf:
    def known(self, *, sha256: str, info_hash: str) -> KnownTorrent | None:
        return TORRENT if sha256 == DIGEST or info_hash == HASH else None


@pytest.fixture
async def net() -> AsyncIterator[MemoryNetwork]:
    net = MemoryNetwork()
    yield net
    await net.close()


def index(net: MemoryNetwork, me: PeerId, *, shares: Any = None, port: int = 6881) -> PeerIndex:
    """An index of a node that joins the network, and answers there."""

    async def handle(stream: Stream) -> None:
        await found.handle(stream)

    transport = net.join(me, WireProtocol(PROTOCOL, handle))
    found = PeerIndex(transport, lambda: shares, lambda: port, FakeClock())
    return found


def answering(net: MemoryNetwork, answer: bytes) -> None:
    """A peer that answers these bytes to everything."""

    async def handle(stream: Stream) -> None:
        await read_frame(stream)
        await stream.write(answer)

    net.join(PEER, WireProtocol(PROTOCOL, handle))


@pytest.mark.parametrize("question", [{"sha256": DIGEST}, {"info_hash": HASH}])
async def test_question_and_answer_fit_each_other(
    net: MemoryNetwork, question: dict[str, str]
) -> None:
    index(net, PEER, shares=Shelf())
    (found,) = await index(net, ME).ask_all(**question)
    assert found.torrent.info_hash == HASH
    assert found.torrent.metainfo == TORRENT.metainfo
    assert (found.host, found.port, found.peer) == ("127.0.0.1", 6881, PEER)


@pytest.mark.parametrize("known", [{}, {"shares": Shelf(), "port": 0}])
async def test_node_that_shares_nothing_answers_nothing(
    net: MemoryNetwork, known: dict[str, Any]
) -> None:
    index(net, PEER, **known)
    assert await index(net, ME).ask_all(sha256=DIGEST) == []
    assert not net.errors


async def test_host_of_a_relay_is_not_the_host_of_the_peer(net: MemoryNetwork) -> None:
    index(net, PEER, shares=Shelf())
    asking = index(net, ME)
    net.nodes[ME].channels[PEER].route = "relay"
    (found,) = await asking.ask_all(info_hash=HASH)
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
async def test_hostile_answer_counts_as_none(net: MemoryNetwork, answer: bytes) -> None:
    answering(net, answer)
    assert await index(net, ME).ask_all(sha256=DIGEST) == []


async def test_peer_that_asks_too_often_is_refused(net: MemoryNetwork) -> None:
    index(net, PEER, shares=Shelf())
    asking = index(net, ME)
    for _ in range(500):
        assert len(await asking.ask_all(sha256=DIGEST)) == 1
    assert await asking.ask_all(sha256=DIGEST) == []
    (error,) = net.errors
    assert isinstance(error, Busy) and "too many questions" in error.message
