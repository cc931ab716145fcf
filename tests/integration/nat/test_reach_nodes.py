"""The questions between NAT plugins of nodes on loopback, and what a node refuses to do."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from aitorrent_nat.reach.messages import MAGIC, PROTOCOL, DialBack, SendDatagram
from aitorrent_nat.reach.part import ReachPart
from aitorrent_nat.stun.asking import StunSocket
from aitorrent_nat.stun.codec import new_transaction
from aitorrentd.api import (
    REACHABILITY,
    TRANSPORT,
    Busy,
    Offence,
    PeerGone,
    PeerMisbehaved,
    encode_frame,
    read_frame,
)
from aitorrentd.methods.observing import status
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, wait_for

LOCAL = "127.0.0.1"


def reach_of(node: Node) -> ReachPart:
    part = node.service(REACHABILITY)
    assert isinstance(part, ReachPart)
    return part


async def pair(node_factory: NodeFactory) -> tuple[Node, Node]:
    """Two connected nodes that have exchanged hellos."""
    one, two = await node_factory.get(2)
    await one.service(TRANSPORT).connect(two.service(TRANSPORT).addresses()[0])
    await wait_for(lambda: stun_port(one, two) and stun_port(two, one))
    return one, two


def stun_port(node: Node, peer: Node) -> int:
    """Where `node` was told that `peer` answers STUN requests; 0 until it was."""
    hello = reach_of(node).hellos.of(peer.id)
    return hello.stun if hello is not None else 0


async def test_hello_tells_where_a_peer_answers_stun(node_factory: NodeFactory) -> None:
    one, two = await pair(node_factory)
    hello = reach_of(one).hellos.of(two.id)
    assert hello is not None
    assert hello == reach_of(two).hellos.own()
    with StunSocket(LOCAL) as sock:
        answer = await sock.ask((LOCAL, hello.stun))
        assert answer.mapped == (LOCAL, sock.port)
        other = await sock.ask(
            (LOCAL, hello.stun), change_port=True, sources=[(LOCAL, hello.alternate)]
        )
        assert other.mapped == answer.mapped


@pytest.mark.parametrize("from_alternate", [False, True])
async def test_peer_sends_one_datagram_on_request(
    node_factory: NodeFactory, from_alternate: bool
) -> None:
    one, two = await pair(node_factory)
    hello = reach_of(two).hellos.own()
    source = (LOCAL, hello.alternate if from_alternate else hello.stun)
    transaction = new_transaction()
    with StunSocket(LOCAL) as sock, sock.expecting(transaction, [source]) as arrival:
        ask = SendDatagram(sock.port, transaction, from_alternate)
        assert await reach_of(one).hellos.talks.ask_for(two.id, ask)
        assert (await asyncio.wait_for(arrival, 5)).source == source


async def test_peer_with_two_addresses_sends_from_the_one_it_is_known_by(
    node_factory: NodeFactory,
) -> None:
    one = await node_factory()
    listen = {"plugins": {"transport": {"listen": [LOCAL, "127.0.0.2"]}}}
    two = await node_factory(listen)
    port = two.service(TRANSPORT).bound[0][1]
    await one.service(TRANSPORT).connect(f"127.0.0.2:{port}")
    source = ("127.0.0.2", await wait_for(lambda: stun_port(one, two)))
    transaction = new_transaction()
    with StunSocket(LOCAL) as sock, sock.expecting(transaction, [source]) as arrival:
        ask = SendDatagram(sock.port, transaction, False)
        assert await reach_of(one).hellos.talks.ask_for(two.id, ask)
        assert (await asyncio.wait_for(arrival, 5)).source == source


async def test_peer_dials_back_and_the_nonce_proves_it(node_factory: NodeFactory) -> None:
    one, two = await pair(node_factory)
    part = reach_of(one)
    port = one.service(TRANSPORT).bound[0][1]
    with part.proofs.expected(LOCAL) as (nonce, said):
        assert await part.hellos.talks.ask_for(two.id, DialBack(port, nonce))
        await asyncio.wait_for(said, 5)
    # The second connection is read after the first, which says its nonce from another address.
    with (
        part.proofs.expected("198.51.100.1") as (wrong, never),
        part.proofs.expected(LOCAL) as (nonce, said),
    ):
        assert await part.hellos.talks.ask_for(two.id, DialBack(port, wrong))
        assert await part.hellos.talks.ask_for(two.id, DialBack(port, nonce))
        await asyncio.wait_for(said, 5)
        assert not never.done()


async def test_peer_that_claims_to_have_dialled_proves_nothing(node_factory: NodeFactory) -> None:
    one, two = await pair(node_factory)
    part = reach_of(one)
    with (
        socket.create_server((LOCAL, 0)) as elsewhere,
        part.proofs.expected(LOCAL) as (nonce, said),
    ):
        assert await part.hellos.talks.ask_for(two.id, DialBack(elsewhere.getsockname()[1], nonce))
        with elsewhere.accept()[0] as connection:
            assert connection.recv(64) == MAGIC + nonce
        assert not said.done()


async def test_closed_port_is_not_reached(node_factory: NodeFactory) -> None:
    one, two = await pair(node_factory)
    with socket.socket() as taken:
        taken.bind((LOCAL, 0))
        ask = DialBack(taken.getsockname()[1], bytes(16))
        assert await reach_of(one).hellos.talks.ask_for(two.id, ask) is False


async def test_wrong_nonce_is_closed_without_a_word(node_factory: NodeFactory) -> None:
    one = await node_factory()
    port = one.service(TRANSPORT).bound[0][1]
    with reach_of(one).proofs.expected(LOCAL) as (_, said):
        for noise in (MAGIC + bytes(16), MAGIC + bytes(40), MAGIC):
            reader, writer = await asyncio.open_connection(LOCAL, port)
            writer.write(noise)
            if len(noise) > 4:
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        assert not said.done()


async def test_dials_are_limited_for_each_peer(node_factory: NodeFactory) -> None:
    one, two = await pair(node_factory)
    talks = reach_of(one).hellos.talks
    port = one.service(TRANSPORT).bound[0][1]
    with pytest.raises((Busy, PeerGone), match="too many dials"):
        for _ in range(10):
            await talks.ask_for(two.id, DialBack(port, bytes(16)))
    ask = SendDatagram(9, new_transaction(), False)
    with pytest.raises((Busy, PeerGone), match="asked too often"):
        for _ in range(30):
            await talks.ask_for(two.id, ask)


async def test_node_that_masks_its_connections_does_not_dial_back(
    node_factory: NodeFactory,
) -> None:
    one = await node_factory()
    two = await node_factory({"plugins": {"transport": {"masking": True}}})
    await two.service(TRANSPORT).connect(one.service(TRANSPORT).addresses()[0])
    await wait_for(lambda: reach_of(one).hellos.of(two.id))
    port = one.service(TRANSPORT).bound[0][1]
    with pytest.raises(PeerGone, match="this node masks its connections"):
        await reach_of(one).hellos.talks.ask_for(two.id, DialBack(port, bytes(16)))


@pytest.mark.parametrize(
    "header", [{"do": "dial", "port": 22}, {"do": "sweep"}, {}, {"do": "datagram", "port": -1}]
)
async def test_hostile_question_is_refused_and_reported(
    node_factory: NodeFactory, header: dict[str, Any]
) -> None:
    one, two = await pair(node_factory)
    with two.events(PeerMisbehaved) as offences:
        stream = await one.service(TRANSPORT).open_stream(two.id, PROTOCOL)
        await stream.write(encode_frame(header))
        with pytest.raises(PeerGone, match="must"):
            await read_frame(stream, max_bytes=512)
        offence = await asyncio.wait_for(anext(offences), 5)
    assert isinstance(offence, PeerMisbehaved)
    assert (offence.peer, offence.offence) == (one.id, Offence.INVALID_MESSAGE)
    assert await reach_of(one).hellos.talks.ask_for(
        two.id, SendDatagram(9, new_transaction(), False)
    )


async def test_loopback_peers_prove_nothing(node_factory: NodeFactory) -> None:
    one, _ = await pair(node_factory)
    await reach_of(one).look()
    expected = {"word": "unknown", "reason": "all peers are in this node's own network"}
    assert (await status(one))["reach"] == expected
