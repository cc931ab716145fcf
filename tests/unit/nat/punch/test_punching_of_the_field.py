"""What happens to hole punching according to public bug reports, each test named by one."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aitorrent_nat.punch import gathering
from aitorrent_nat.punch.candidates import Allowance, Candidate, Kind
from aitorrent_nat.punch.messages import (
    MAX_MESSAGE_BYTES,
    Answer,
    Go,
    Message,
    Offer,
    Refuse,
    Result,
    Sync,
    decode,
    encode,
)
from aitorrent_nat.punch.mirror import decode_reply, encode_reply
from aitorrent_nat.punch.paths.ice import Agent
from aitorrent_nat.punch.plan import plan
from aitorrent_nat.punch.signalling import Send, Signalling, Start
from aitorrent_nat.punch.surroundings import TurnAccess
from aitorrent_nat.punch.tcp import Punch
from aitorrentd.api import Frame, ProtocolError, decode_frame, read_frame
from aitorrentd.api.tasks import Tasks
from tests.support.nat.paths import LOCAL
from tests.support.nat.terms import KINDS, terms
from tests.support.nodes import Leaks

SESSION = b"s" * 16


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    leaks = Leaks()
    owner = Tasks(logging.getLogger("aitorrentd.test"))
    yield owner
    await owner.close()
    await leaks.check()


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the event loop complains of; ICE runs on loopback."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [LOCAL])
    return []


def lying(host: str, port: int) -> Punch:
    punch = Punch(lambda port: socket.socket())
    punch.port, punch.mapped = 40_001, [(host, port)]
    return punch


@pytest.mark.parametrize(
    ("host", "port"),
    [("0.0.0.0", 40_000), ("::", 40_000), ("224.0.0.1", 40_000), ("11.1.0.2", 0)],
)
def test_citadel_279_a_lying_mirror_makes_a_node_offer_nothing_that_peers_refuse(
    host: str, port: int
) -> None:
    offered = gathering.usable(lying(host, port).candidates(["192.168.1.5"]))
    assert offered == [Candidate(Kind.TCP_HOST, "192.168.1.5", 40_001)]
    offer = Offer(SESSION, terms(candidates=tuple(offered)))
    assert decode(decode_frame(encode(offer), 4)) == offer


def test_rust_libp2p_4496_what_others_see_is_offered_and_not_what_is_bound() -> None:
    [seen, own] = lying("11.1.0.2", 50_123).candidates(["192.168.1.5"])
    assert (seen.kind, seen.host, seen.port) == (Kind.TCP, "11.1.0.2", 50_123)
    assert (own.kind, own.host, own.port) == (Kind.TCP_HOST, "192.168.1.5", 40_001)


def test_rust_libp2p_2259_ip4_in_ip6_is_told_as_ip4() -> None:
    assert decode_reply(encode_reply(("::ffff:203.0.113.1", 5))) == ("203.0.113.1", 5)
    assert decode_reply(encode_reply(("fe80::1%eth0", 5))) == ("fe80::1", 5)


@pytest.mark.parametrize("name", ["2cf85dc7-5ba6-424c.local", "localhost", "0x7f000001", "1.2"])
def test_pion_699_names_are_not_resolved_for_a_peer(name: str) -> None:
    header = dict(decode_frame(encode(Offer(SESSION, terms())), 4).header)
    header["at"] = [["udp", name, 4000]]
    with pytest.raises(ProtocolError, match="unicast IP address"):
        decode(Frame(header))


def test_nebula_46_two_symmetric_nats_are_told_and_not_tried_for_a_minute() -> None:
    kinds = frozenset({Kind.TCP, Kind.UDP, Kind.MANY})
    found = plan(KINDS["symmetric"], KINDS["symmetric"], kinds, kinds)
    assert found.steps == () and "symmetric" in found.reason


def test_nebula_325_the_answering_end_sends_nothing_before_both_are_ready() -> None:
    end = Signalling(initiator=False)
    end.receive(Offer(SESSION, terms()), 0.0)
    end.accept(terms("11.2.0.2"))
    assert not any(isinstance(each, Start) for each in end.receive(Sync(), 0.0))
    assert end.receive(Go(), 0.1) == [Start(0.0, None)]


class Bytes:
    """A stream that delivers what it has in pieces."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def read_exactly(self, n: int) -> bytes:
        part, self._raw = self._raw[:n], self._raw[n:]
        return part


async def test_py_libp2p_1537_messages_in_one_segment_are_told_apart() -> None:
    sent: list[Message] = [Sync(), Go(), Result(True, "tcp")]
    stream = Bytes(b"".join(map(encode, sent)))
    got = [decode(await read_frame(stream, max_bytes=MAX_MESSAGE_BYTES)) for _ in sent]
    assert got == sent


async def test_py_libp2p_1438_a_length_is_refused_before_its_bytes_arrive() -> None:
    stream = Bytes(b"\xff\xff\xff\xff")
    with pytest.raises(ProtocolError, match="frame of 4294967295 bytes"):
        await read_frame(stream, max_bytes=MAX_MESSAGE_BYTES)


def test_py_libp2p_1537_the_start_is_half_a_round_trip_away() -> None:
    one = Signalling(initiator=True)
    one.offer(SESSION, terms())
    one.receive(Answer(terms("11.2.0.2")), 0.0)
    one.sync((), 1.0)
    outputs = one.receive(Sync(), 1.08)
    assert [each.message for each in outputs if isinstance(each, Send)] == [Go()]
    start = outputs[-1]
    assert isinstance(start, Start)
    assert start.delay_s == pytest.approx(0.04)
    assert start.rtt_s == pytest.approx(0.08)


@pytest.mark.parametrize("again", [Go(), Sync(), Refuse("no"), Offer(SESSION, terms())])
def test_iroh_4393_a_peer_cannot_start_a_session_twice(again: Message) -> None:
    end = Signalling(initiator=False)
    end.receive(Offer(SESSION, terms()), 0.0)
    end.accept(terms("11.2.0.2"))
    end.receive(Sync(), 0.0)
    end.receive(Go(), 0.0)
    with pytest.raises(ProtocolError, match="out of turn"):
        end.receive(again, 0.0)


def test_rust_libp2p_4624_an_address_of_the_relay_is_none_of_the_peer() -> None:
    """A peer that names the relay through which it is reached would have the relay flooded."""
    allowance = Allowance(public=frozenset({"11.1.0.2"}))
    relay = [Candidate(kind, "11.9.0.9", 8468) for kind in (Kind.LISTEN, Kind.TCP, Kind.UDP)]
    assert allowance.select(relay) == []
    assert allowance.hosts(relay) == {"11.1.0.2"}


async def test_streamlit_webrtc_552_an_agent_closed_during_its_checks_is_silent(
    tasks: Tasks, errors: list[Any]
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    agent = Agent(tasks, controlling=True)
    await agent.gather(())
    mute, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (LOCAL, 0))
    where = Candidate(Kind.UDP_HOST, *mute.get_extra_info("sockname"))
    connecting = asyncio.ensure_future(agent.connect("abcd", "p" * 22, [where], {LOCAL}))
    await asyncio.sleep(0.03)  # between two copies of a check
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await agent.close()
    await asyncio.sleep(0.1)
    assert errors == []
    mute.close()


class Refusing(asyncio.DatagramProtocol):
    """A TURN server that answers every request with an error that says nothing more."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        error = b"\x00\x09\x00\x04\x00\x00\x04\x26"  # ERROR-CODE 438, without a nonce
        head = b"\x01\x13" + len(error).to_bytes(2, "big") + data[4:20]
        self._transport.sendto(head + error, addr)


async def test_aioice_12_a_turn_server_with_a_stale_nonce_delays_nobody(
    tasks: Tasks, errors: list[Any]
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    server, _ = await loop.create_datagram_endpoint(Refusing, (LOCAL, 0))
    turn = TurnAccess(server.get_extra_info("sockname"), "u", "p", tls=False, transport="udp")
    agent = Agent(tasks, controlling=True, turn=turn)
    async with asyncio.timeout(2):
        found = await agent.gather(())
        await agent.close()
    assert [each.kind for each in found] == [Kind.UDP_HOST]
    assert errors == []
    server.close()
