"""The STUN client against servers on loopback: honest, lying, silent and hostile ones."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aitorrent_nat.networks import Place
from aitorrent_nat.reach.part import ReachPart
from aitorrent_nat.stun.asking import StunSocket
from aitorrent_nat.stun.behaviour import Filtering, Mapping
from aitorrent_nat.stun.classifying import classify, filtering_by, hairpins_at, observe
from aitorrent_nat.stun.codec import Request, Response, encode_response, new_transaction, read
from aitorrent_nat.stun.legacy import classify_legacy
from aitorrent_nat.stun.lifetime import lifetime_s, longest, poke_by
from aitorrent_nat.stun.transaction import Timers
from aitorrentd.api import REACHABILITY, ProtocolError, TimedOut, Unavailable
from tests.support.nat.stun_servers import rfc3489_server, rfc5780_server, server
from tests.support.nodes import NodeFactory, wait_for

LOCAL = "127.0.0.1"
QUICK = Timers(rto_s=0.05, sends=3, last_wait=2)


def reply_to(raw: bytes, source: Place) -> bytes:
    """What an honest server replies."""
    request = read(raw)
    assert isinstance(request, Request)
    return encode_response(Response(request.transaction, mapped=source))


async def test_server_tells_the_own_address() -> None:
    with rfc5780_server() as place, StunSocket(LOCAL) as socket:
        answer = await socket.ask(place)
        assert answer.mapped == (LOCAL, socket.port)
        assert answer.source == place
        assert answer.rtt_s is not None
        assert answer.rtt_s < 1


async def test_node_answers_by_ip6(node_factory: NodeFactory) -> None:
    node = await node_factory({"plugins": {"transport": {"listen": ["127.0.0.1", "::1"]}}})
    part = node.service(REACHABILITY)
    assert isinstance(part, ReachPart)
    await wait_for(lambda: part.hellos.own().stun)
    hello = part.hellos.own()
    port, alternate = hello.stun, hello.alternate
    with StunSocket("::1") as socket:
        answer = await socket.ask(("::1", port))
        assert answer.mapped == ("::1", socket.port)
        sources = [("::1", alternate)]
        changed = await socket.ask(("::1", port), change_port=True, sources=sources)
        assert changed.mapped == answer.mapped
    with StunSocket(LOCAL) as socket:
        assert (await socket.ask((LOCAL, port))).mapped == (LOCAL, socket.port)


async def test_lost_request_is_sent_again() -> None:
    seen: list[bytes] = []

    def loses_two(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        seen.append(raw)
        return [(reply_to(raw, source), source)] if len(seen) == 3 else []

    with server(loses_two) as place, StunSocket(LOCAL) as socket:
        answer = await socket.ask(place, timers=QUICK)
        assert answer.mapped == (LOCAL, socket.port)
        assert answer.rtt_s is None, "it is unclear which of three requests was answered"
    assert len(set(seen)) == 1, "a retransmission has the same transaction id"


async def test_silent_server_is_given_up() -> None:
    silent = pytest.raises(TimedOut, match=r"udp did not answer within 0.25 s")
    with server(lambda raw, source: []) as place, StunSocket(LOCAL) as socket, silent:
        await socket.ask(place, timers=QUICK)


async def test_reply_from_a_wrong_source_is_ignored() -> None:
    """Appendix C, number 14."""
    seen: list[tuple[bytes, Place]] = []

    def notes(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        seen.append((raw, source))
        return []

    with server(notes) as place, StunSocket(LOCAL) as socket, StunSocket(LOCAL) as attacker:

        async def attack() -> None:
            raw, source = (await wait_for(lambda: seen))[0]
            request = read(raw)
            attacker.send(encode_response(Response(request.transaction, ("6.6.6.6", 6))), source)

        with pytest.raises(TimedOut, match="did not answer"):
            await asyncio.gather(socket.ask(place, timers=QUICK), attack())
        assert socket.ignored == {"wrong source": 1}


async def test_reply_with_a_wrong_transaction_id_is_ignored() -> None:
    """Appendix C, number 14: the forged reply comes first, and the right one still counts."""

    def forges(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        forged = encode_response(Response(new_transaction(), ("6.6.6.6", 6)))
        return [(forged, source), (reply_to(raw, source), source)]

    with server(forges) as place, StunSocket(LOCAL) as socket:
        assert (await socket.ask(place, timers=QUICK)).mapped == (LOCAL, socket.port)
        assert socket.ignored == {"unknown transaction": 1}


async def test_garbage_is_said_to_be_garbage() -> None:
    garbled = pytest.raises(Unavailable, match="answers with what is not STUN")
    with (
        server(lambda raw, source: [(b"HTTP/1.1 400", source)]) as place,
        StunSocket(LOCAL) as socket,
        garbled,
    ):
        await socket.ask(place, timers=QUICK)


async def test_server_that_names_an_inner_address_as_its_other_is_not_followed() -> None:
    """Else a server could direct requests at machines of this node's own network."""

    def lures(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        request = read(raw)
        response = Response(request.transaction, source, other=("127.0.0.1", 631))
        return [(encode_response(response), source)]

    with server(lures) as place, StunSocket(LOCAL) as socket:
        asked = await observe(socket, [place])
    assert asked.others == {}
    assert "cannot be" in asked.problems[place]


async def test_server_with_two_addresses_classifies_without_a_nat() -> None:
    with rfc5780_server() as place:
        behaviour, asked = await classify([place], frozenset({LOCAL}), LOCAL)
    assert asked.problems == {}
    assert behaviour.mapping is Mapping.NONE
    assert behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT
    assert (behaviour.external, behaviour.keeps_ports) == (LOCAL, True)
    assert behaviour.hairpins is None


async def test_server_that_does_not_reply_from_elsewhere_looks_like_a_filter() -> None:
    def stays(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        request = read(raw)
        assert isinstance(request, Request)
        is_plain = not request.change_ip and not request.change_port
        return [(reply_to(raw, source), source)] if is_plain else []

    with server(stays) as place:
        found = await filtering_by(place, ("127.0.0.2", 1), LOCAL)
    assert found is Filtering.ADDRESS_AND_PORT_DEPENDENT


async def test_node_that_reaches_itself_hairpins() -> None:
    with rfc5780_server() as place, StunSocket(LOCAL) as socket:
        asked = await observe(socket, [place])
        assert await hairpins_at(socket, asked.observed[0], frozenset(), LOCAL) is True
        seen = asked.observed[0]._replace(mapped=(LOCAL, 9))
        with StunSocket(LOCAL):
            assert await hairpins_at(socket, seen, frozenset(), LOCAL) is True, "the way back"


async def test_mapping_that_lives_is_found_by_a_datagram_after_silence() -> None:
    with rfc5780_server() as place, StunSocket(LOCAL) as socket:
        waits_s = (0.05, 0.1)
        assert await lifetime_s(place, poke_by(socket, place), LOCAL, waits_s=waits_s) == 0.1
    with pytest.raises(TimedOut, match="did not answer"), StunSocket(LOCAL) as socket:
        await lifetime_s(place, poke_by(socket, place), LOCAL, waits_s=(0.05,))


async def test_server_that_sends_to_no_other_port_does_not_tell_the_lifetime() -> None:
    def answers(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        request = read(raw)
        assert isinstance(request, Request)
        return [] if request.response_port else [(reply_to(raw, source), source)]

    with server(answers) as place, StunSocket(LOCAL) as socket:
        poke = poke_by(socket, place)
        with pytest.raises(Unavailable, match="does not send to another port on request"):
            await lifetime_s(place, poke, LOCAL, waits_s=(0.05,))


def test_lifetime_ends_at_the_first_loss() -> None:
    assert longest({15.0: True, 30.0: True, 60.0: False, 120.0: True}) == 30.0
    assert longest({15.0: False, 30.0: True}) == 0.0


async def test_server_of_the_old_standard_is_asked_by_pystun3() -> None:
    async with rfc3489_server() as place:
        with StunSocket(LOCAL) as socket, pytest.raises(TimedOut, match="did not answer"):
            await socket.ask(place, timers=QUICK)
        behaviour = await classify_legacy(place)
    assert behaviour.mapping is Mapping.NONE
    assert behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT
    assert (behaviour.external, behaviour.keeps_ports) == (LOCAL, True)


async def test_pystun3_that_asks_for_ever_is_ended() -> None:
    """It repeats a request without end when the reply has another transaction id."""

    def mismatches(raw: bytes, source: Place) -> list[tuple[bytes, Place]]:
        return [(b"\x01\x01\0\0" + bytes(16), source)]

    with server(mismatches) as place:
        with pytest.raises(TimedOut, match=r"gave no result within 0.3 s \(RFC 3489\)"):
            await classify_legacy(place, timeout_s=0.3)
        names = [thread.name for thread in threading.enumerate()]
        assert f"stun {LOCAL}" not in names or await wait_for(
            lambda: all(t.name != f"stun {LOCAL}" for t in threading.enumerate())
        )


@pytest.mark.parametrize("noise", [b"", b"\xff", b"\x01\x01", b"\x0f\x0f" * 30])
async def test_garbage_for_pystun3_is_an_error_and_no_crash(noise: bytes) -> None:
    with (
        server(lambda raw, source: [(noise, source)]) as place,
        pytest.raises((ProtocolError, TimedOut), match=str(place[1])),
    ):
        await classify_legacy(place, timeout_s=1.0)
