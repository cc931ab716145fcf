"""Which claims about BitTorrent connections are believed, and which are not."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

import pytest

from aitorrent_seeding.crediting.claims import PROTOCOL, Claims
from aitorrent_seeding.crediting.proofs import LENGTH, MOST, bind, proofs_for
from aitorrent_seeding.session.links import NOBODY, Link
from aitorrent_seeding.session.names import HANDSHAKE_S, Names
from aitorrent_seeding.session.names import MOST as MOST_NAMES
from aitorrentd.api import (
    Busy,
    PeerId,
    ProtocolError,
    Stream,
    WireProtocol,
    encode_frame,
    peer_id,
    read_frame,
)
from tests.support.clocks import FakeClock
from tests.support.transport.memory_network import MemoryNetwork

A, B, STRANGER = (peer_id(random.Random(n).randbytes(32)) for n in range(3))
HASH, OTHER = "cd" * 20, "ef" * 20
HOST = "127.0.0.1"
A_NAMES, B_NAMES = ((b"a" * 20, b"b" * 20), (b"c" * 20, b"d" * 20))


def ends() -> tuple[Link, Link]:
    """Both ends of one connection: as A sees it, and as B does."""
    return (
        Link((HOST, 50_000), A_NAMES, 0.0, B_NAMES[1]),
        Link((HOST, 6881), B_NAMES, 0.0, A_NAMES[0]),
    )


def judged(
    given: Sequence[bytes],
    link: Link,
    *,
    prover: PeerId = A,
    judge: PeerId = B,
    host: str = HOST,
    info_hash: str = HASH,
) -> PeerId | None:
    bind(prover, frozenset(given), [link], judge=judge, host=host, info_hash=info_hash)
    return link.node


def test_both_ends_of_a_connection_prove_it() -> None:
    a, b = ends()
    assert judged(proofs_for(B, [a], prover=A, info_hash=HASH), b) == A
    given = proofs_for(A, [b], prover=B, info_hash=HASH)
    assert judged(given, a, prover=B, judge=A) == B


def test_proof_serves_nobody_else_and_nothing_else() -> None:
    a, _ = ends()
    given = proofs_for(B, [a], prover=A, info_hash=HASH)
    assert judged(given, ends()[1], prover=STRANGER) is None
    assert judged(given, ends()[1], judge=STRANGER) is None
    assert judged(given, ends()[1], info_hash=OTHER) is None
    assert judged(proofs_for(STRANGER, [a], prover=A, info_hash=HASH), ends()[1]) is None


def test_stranger_who_knows_one_peer_id_and_the_endpoint_proves_nothing() -> None:
    """The swarm may know one end's peer id, if it is connected to it; never those of both."""
    for known in ((A_NAMES, b"?" * 20), ((b"?" * 20,), B_NAMES[1])):
        guess = Link((HOST, 50_000), known[0], 0.0, known[1])
        given = proofs_for(B, [guess], prover=STRANGER, info_hash=HASH)
        assert judged(given, ends()[1], prover=STRANGER) is None


def test_somebody_between_two_nodes_does_not_pass_for_either() -> None:
    """Handshakes that are passed on have the right peer ids, and another address."""
    a, _ = ends()
    given = proofs_for(B, [a], prover=A, info_hash=HASH)
    between = Link(("192.0.2.66", 6881), B_NAMES, 0.0, A_NAMES[0])
    assert judged(given, between) is None
    assert judged(given, ends()[1], host="") is None, "behind a relay, there is no address"
    mapped = Link(("::ffff:127.0.0.1", 6881), B_NAMES, 0.0, A_NAMES[0])
    assert judged(given, mapped) == A


def test_two_nodes_behind_one_address_are_told_apart() -> None:
    first = Link((HOST, 50_000), A_NAMES, 0.0, B_NAMES[0])
    second = Link((HOST, 50_001), (b"s" * 20,), 0.0, B_NAMES[1])
    seen = [
        Link((HOST, 1), (B_NAMES[0],), 0.0, A_NAMES[1]),
        Link((HOST, 2), (B_NAMES[1],), 0.0, b"s" * 20),
    ]
    for prover, link in ((A, first), (STRANGER, second)):
        given = frozenset(proofs_for(B, [link], prover=prover, info_hash=HASH))
        assert bind(prover, given, seen, judge=B, host=HOST, info_hash=HASH) == 1
    assert [link.node for link in seen] == [A, STRANGER]


def test_connection_keeps_its_node() -> None:
    _, b = ends()
    a, _ = ends()
    assert judged(proofs_for(B, [a], prover=A, info_hash=HASH), b) == A
    leaked = proofs_for(B, [a], prover=STRANGER, info_hash=HASH)
    assert judged(leaked, b, prover=STRANGER) == A


def test_connections_without_a_handshake_prove_nothing() -> None:
    a, b = ends()
    a.name = b.name = NOBODY
    assert proofs_for(B, [a], prover=A, info_hash=HASH) == []
    assert len(proofs_for(B, [ends()[0]] * MOST, prover=A, info_hash=HASH)) == MOST


def test_peer_ids_change_and_those_that_may_be_in_use_are_known() -> None:
    names = Names("-LT2110-", 0.0)
    first = names.renew(1.0)
    second = names.renew(2.0)
    assert first != second
    assert first.startswith("-LT2110-")
    assert len(first) == 20
    assert names.possible(3.0)[:2] == (second.encode(), first.encode())
    assert names.possible(2.0 + HANDSHAKE_S) == (second.encode(),)
    for n in range(2 * MOST_NAMES):
        names.renew(3.0 + n / 1000)
    assert len(names.possible(4.0)) == MOST_NAMES


# Over channels


@pytest.fixture
async def net() -> AsyncIterator[MemoryNetwork]:
    net = MemoryNetwork()
    yield net
    await net.close()


def node(net: MemoryNetwork, me: PeerId, *links: Link) -> Claims:
    """A node with connections of one torrent."""

    async def links_of(info_hash: str) -> Sequence[Link]:
        return links if info_hash == HASH else ()

    async def handle(stream: Stream) -> None:
        await claims.handle(stream)

    claims = Claims(net.join(me, WireProtocol(PROTOCOL, handle)), links_of, FakeClock())
    return claims


async def test_one_question_tells_both_nodes_whose_connection_it_is(net: MemoryNetwork) -> None:
    a, b = ends()
    node(net, A, a)
    assert await node(net, B, b).claim(A, HASH, [b]) == 1
    assert (a.node, b.node) == (B, A)


async def test_claim_about_another_torrent_is_not_believed(net: MemoryNetwork) -> None:
    a, b = ends()
    node(net, A, a)
    assert await node(net, B, b).claim(A, OTHER, [b]) == 0
    assert (a.node, b.node) == (None, None)


async def test_node_behind_a_relay_is_not_bound(net: MemoryNetwork) -> None:
    a, b = ends()
    node(net, A, a)
    asking = node(net, B, b)
    net.nodes[B].channels[A].route = "relay"
    assert await asking.claim(A, HASH, [b]) == 0
    assert b.node is None


async def test_proofs_are_of_no_use_to_the_node_that_gets_them(net: MemoryNetwork) -> None:
    """A stranger answers to a claim with what it was given, and shows it to others."""
    a, b = ends()
    taken: list[bytes] = []

    async def handle(stream: Stream) -> None:
        frame = await read_frame(stream)
        taken.append(bytes(frame.tail))
        await stream.write(encode_frame(dict(frame.header), taken[0]))

    stranger = net.join(STRANGER, WireProtocol(PROTOCOL, handle))
    asking = node(net, B, b)
    node(net, A, a)
    assert await asking.claim(STRANGER, HASH, [b]) == 0
    stream = await stranger.open_stream(A, PROTOCOL)
    await stream.write(encode_frame({"hash": bytes.fromhex(HASH)}, taken[0]))
    await read_frame(stream)
    assert (a.node, b.node) == (None, None)


@pytest.mark.parametrize(
    "answer",
    [
        encode_frame({}),
        encode_frame({"hash": b"short"}),
        encode_frame({"hash": bytes(20)}, b"x" * LENGTH),
        encode_frame({"hash": bytes.fromhex(HASH)}, b"x" * (LENGTH + 1)),
        b"\0\0\0\2xx",
        b"",
    ],
)
async def test_hostile_answer_counts_as_none(net: MemoryNetwork, answer: bytes) -> None:
    async def handle(stream: Stream) -> None:
        await read_frame(stream)
        await stream.write(answer)
        await stream.close()

    net.join(A, WireProtocol(PROTOCOL, handle))
    _, b = ends()
    assert await node(net, B, b).claim(A, HASH, [b]) == 0
    assert b.node is None


async def test_too_many_claims_are_refused(net: MemoryNetwork) -> None:
    a, b = ends()
    node(net, A, a)
    asking = node(net, B, b)
    for _ in range(60):
        await asking.claim(A, HASH, [b])
    assert any(isinstance(error, Busy) for error in net.errors)
    net.errors.clear()


async def test_claim_that_is_not_one_is_refused(net: MemoryNetwork) -> None:
    a, _ = ends()
    node(net, A, a)
    stranger = net.join(STRANGER)
    stream = await stranger.open_stream(A, PROTOCOL)
    await stream.write(encode_frame({"hash": bytes.fromhex(HASH)}, b"x" * 17))
    with pytest.raises(Exception, match=".*"):
        await read_frame(stream)
    assert any(isinstance(error, ProtocolError) for error in net.errors)
    net.errors.clear()
