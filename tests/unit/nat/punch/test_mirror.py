"""The mirror tells a connection where it comes from, and little else, to few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_nat.punch import mirror as module
from aitorrent_nat.punch.mirror import (
    MAGIC,
    MAX_PER_NETWORK,
    Mirror,
    ask,
    decode_reply,
    encode_reply,
    network_of,
)
from aitorrent_nat.punch.tcp import Punch, bound_socket
from aitorrentd.api import ProtocolError, Unavailable
from tests.support.clocks import FakeClock
from tests.support.nat.ends import mirror_server

LOCAL = "127.0.0.1"


@pytest.mark.parametrize(
    "place", [("203.0.113.7", 4711), ("2001:db8::1", 1), ("127.0.0.1", 65_535)]
)
def test_a_reply_survives_its_encoding_in_pieces(place: tuple[str, int]) -> None:
    raw = encode_reply(place)
    for end in range(len(raw)):
        assert decode_reply(raw[:end]) is None
    assert decode_reply(raw) == place
    assert place[0].encode() not in raw
    with pytest.raises(ProtocolError, match="bytes after"):
        decode_reply(raw + b"x")


def test_an_ipv4_address_in_ipv6_is_told_as_ipv4() -> None:
    assert decode_reply(encode_reply(("::ffff:203.0.113.7", 1))) == ("203.0.113.7", 1)


@given(st.binary(max_size=40))
def test_no_reply_does_worse_than_a_protocol_error(raw: bytes) -> None:
    try:
        decode_reply(MAGIC + raw)
        decode_reply(raw)
    except ProtocolError:
        pass


async def test_a_node_learns_its_address_from_the_port_that_it_punches_from() -> None:
    async with mirror_server(Mirror(FakeClock().monotonic)) as place:
        punch = await Punch.prepare([place])
        assert punch.mapped == [(LOCAL, punch.port)]
        assert not punch.is_symmetric
        punch.close()


async def test_two_mirrors_are_asked_at_once() -> None:
    mirror = Mirror(FakeClock().monotonic)
    async with mirror_server(mirror) as one, mirror_server(mirror) as other:
        punch = await Punch.prepare([one, other])
        assert punch.mapped == [(LOCAL, punch.port)] * 2
        punch.close()
        assert mirror.answered == 2


async def test_the_next_mirrors_are_asked_if_the_first_are_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aitorrent_nat.punch.tcp.ANSWER_S", 1.0)
    async with silent_server() as mute, mirror_server(Mirror(FakeClock().monotonic)) as place:
        punch = await Punch.prepare([mute, mute, place])
        assert punch.mapped == [(LOCAL, punch.port)]
        punch.close()


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[str, int]]:
    """Accepts and says nothing."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, LOCAL, 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def test_without_an_answer_the_reasons_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aitorrent_nat.punch.tcp.ANSWER_S", 0.2)
    with pytest.raises(Unavailable, match="no public peer is connected"):
        await Punch.prepare([])
    async with silent_server() as mute:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1 did not answer"):
            await Punch.prepare([mute])


async def test_one_network_cannot_use_up_the_mirror() -> None:
    clock = FakeClock()
    mirror = Mirror(clock.monotonic)
    async with mirror_server(mirror) as place:
        socks = [bound_socket(0) for _ in range(MAX_PER_NETWORK + 1)]
        for sock in socks[:-1]:
            await ask(sock, place)
        with pytest.raises((ProtocolError, OSError)):
            await ask(socks[-1], place)
        assert mirror.refused == 1
        for sock in socks:
            sock.close()
    assert mirror.admit("11.9.0.0/24")


def test_a_network_that_asks_too_often_waits() -> None:
    clock = FakeClock()
    mirror = Mirror(clock.monotonic)
    for _ in range(MAX_PER_NETWORK):
        assert mirror.admit("11.1.0.0/24")
        mirror.release("11.1.0.0/24")
    assert not mirror.admit("11.1.0.0/24")
    clock.now += 1 / module.RATE
    assert mirror.admit("11.1.0.0/24")


def test_all_networks_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 3)
    mirror = Mirror(FakeClock().monotonic)
    assert [mirror.admit(f"11.{n}.0.0/24") for n in range(4)] == [True, True, True, False]
    mirror.release("11.0.0.0/24")
    assert mirror.admit("11.4.0.0/24")


async def test_a_connection_is_ended_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_S", 0.1)
    mirror = Mirror(FakeClock().monotonic)
    async with mirror_server(mirror) as place:
        sock = bound_socket(0)
        await ask(sock, place)
        try:
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 5) == b""
        except ConnectionResetError:
            pass  # as plain asyncio ends it
        finally:
            sock.close()


async def test_what_is_no_request_gets_no_answer() -> None:
    mirror = Mirror(FakeClock().monotonic)
    accepted: list[bool] = []
    reflection = mirror.serve((LOCAL, 1), lambda: accepted.append(True))
    reflection.data_received(b"AIT")
    assert not accepted
    assert mirror.answered == 0


def test_neighbours_share_an_allowance() -> None:
    assert network_of("11.1.0.2") == network_of("11.1.0.200") != network_of("11.1.1.2")
    assert network_of("2001:db8:0:1::1") == network_of("2001:db8:0:2::1")
