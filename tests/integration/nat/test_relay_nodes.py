"""Nodes that reach each other through a relay, over TCP on loopback."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aitorrent_nat.relay import dialing as dialing_module
from aitorrent_nat.relay import lines as lines_module
from aitorrent_nat.relay import serving as serving_module
from aitorrent_nat.relay.claims import MAGIC
from aitorrent_nat.relay.messages import (
    PROTOCOL,
    TOKEN_BYTES,
    Connect,
    Opened,
    Refused,
    Reserve,
    encode,
)
from aitorrent_nat.relay.messages import read_from_relay as read
from aitorrent_nat.relay.reservation import Terms, issue
from aitorrentd.api import (
    ATTEMPTS,
    AitorrentError,
    Draining,
    InvalidParams,
    Offence,
    PeerGone,
    Reach,
    Unavailable,
    read_frame,
)
from aitorrentd.api.network.addresses import parse_address
from tests.support.nat.relayed import RelayNode, relay_node
from tests.support.nodes import Leaks, wait_for
from tests.support.transport.transport_nodes import ECHO, Identity

MIB = 2**20
FAST = {"rate": "1 GiB/s", "total_rate": "1 GiB/s", "bytes_per_hour": "10 GiB"}


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    leaks = Leaks()
    yield
    await leaks.check()


async def exchange(one: RelayNode, other: RelayNode, content: bytes) -> None:
    """Send `content`, and read it back."""
    stream = await one.transport.open_stream(other.id, ECHO)

    async def send() -> None:
        await stream.write(content)
        await stream.close_write()

    _, back = await asyncio.gather(send(), stream.read_exactly(len(content)))
    assert back == content


@asynccontextmanager
async def three(path: Path, **limits: object) -> AsyncIterator[tuple[RelayNode, ...]]:
    """A relay, a node that holds a reservation there, and one that dials it."""
    async with (
        relay_node(path, "relay", Reach.PUBLIC, relay_limits={**FAST, **limits}) as relay,
        relay_node(path, "target") as target,
        relay_node(path, "dialer") as dialer,
    ):
        await target.reserves_at(relay)
        yield relay, target, dialer


async def test_two_nodes_talk_through_a_relay_and_know_it(tmp_path: Path) -> None:
    async with three(tmp_path) as (relay, target, dialer):
        assert target.behind(relay) in target.transport.addresses()
        view = await dialer.transport.connect(target.behind(relay))
        assert (view.id, view.route, view.host) == (target.id, "relay", "")
        assert f"{view.address}/p2p/{target.id}" == target.behind(relay)
        content = os.urandom(4 * MIB)
        await exchange(dialer, target, content)
        await exchange(target, dialer, content)
        seen = next(p for p in target.transport.peers() if p.id == dialer.id)
        assert (seen.route, seen.outbound, seen.address) == ("relay", False, view.address)
        assert relay.part.server.lines.budgets.passed > 4 * len(content)
        attempt = dialer.kernel.service(ATTEMPTS).of(target.id)[-1]
        assert (attempt.way, attempt.ok) == ("relay", True)
        await dialer.transport.disconnect(target.id)
        await wait_for(lambda: len(relay.part.server.lines) == 0)


async def test_a_dialer_needs_no_channel_to_the_relay_beforehand(tmp_path: Path) -> None:
    async with three(tmp_path) as (relay, target, dialer):
        assert dialer.transport.peers() == []
        await dialer.transport.connect(target.behind(relay))
        assert {p.id for p in dialer.transport.peers()} == {relay.id, target.id}


async def test_many_circuits_at_the_same_time(tmp_path: Path) -> None:
    async with (
        relay_node(tmp_path, "relay", Reach.PUBLIC, relay_limits=FAST) as relay,
        relay_node(tmp_path, "t1") as t1,
        relay_node(tmp_path, "t2") as t2,
        relay_node(tmp_path, "d1") as d1,
        relay_node(tmp_path, "d2") as d2,
        relay_node(tmp_path, "d3") as d3,
    ):
        await t1.reserves_at(relay)
        await t2.reserves_at(relay)
        pairs = [(d, t) for d in (d1, d2, d3) for t in (t1, t2)] + [(t1, t2)]
        await asyncio.gather(*(d.transport.connect(t.behind(relay)) for d, t in pairs))
        assert len(relay.part.server.lines) == len(pairs)
        await asyncio.gather(*(exchange(d, t, os.urandom(MIB)) for d, t in pairs))
        for d in (d1, d2, d3, t1):
            for peer in d.transport.peers():
                if peer.route == "relay":
                    await d.transport.disconnect(peer.id)
        await wait_for(lambda: len(relay.part.server.lines) == 0)


async def test_the_limit_of_a_pair_ends_the_circuit_with_a_reason_at_both_ends(
    tmp_path: Path,
) -> None:
    async with three(tmp_path, bytes_per_hour="1 MiB") as (relay, target, dialer):
        await dialer.transport.connect(target.behind(relay))
        with pytest.raises(PeerGone):
            await exchange(dialer, target, bytes(2 * MIB))
        reason = "the relay's limit of 1.0 MiB an hour for one pair of nodes"
        for node, peer in ((dialer, target), (target, dialer)):
            attempts = node.kernel.service(ATTEMPTS)
            await wait_for(lambda: reason in attempts.of(peer.id)[-1].outcome)  # noqa: B023
            assert not attempts.of(peer.id)[-1].ok
        assert relay.part.server.lines.budgets.passed <= MIB
        # Another circuit of the same pair, from either end, is refused and not cut.
        await dialer.reserves_at(relay)
        for one, other in ((dialer, target), (target, dialer)):
            with pytest.raises(Unavailable, match=r"allows in an hour; try again in \d+ min"):
                await one.transport.connect(other.behind(relay))


async def test_the_rate_of_a_pair_is_kept_over_many_circuits(tmp_path: Path) -> None:
    """Appendix C, attack 18, on the wire: more circuits give a pair no more bytes."""
    async with three(tmp_path, rate="1 MiB/s") as (relay, target, dialer):
        await dialer.transport.connect(target.behind(relay))
        loop = asyncio.get_running_loop()
        address = parse_address(target.behind(relay))
        legs: list[asyncio.Transport] = []
        for _ in range(3):
            # Further circuits of the same pair: the target hangs up for lack of a handshake.
            made = await dialer.part._dialer.connect(address, asyncio.Protocol)
            legs.append(made)
        budgets = relay.part.server.lines.budgets
        began, before = loop.time(), budgets.passed
        for leg in legs:
            leg.write(os.urandom(4 * MIB))
        await exchange(dialer, target, os.urandom(MIB // 2))
        took_s = loop.time() - began
        assert budgets.passed - before <= MIB * (took_s + 1.1)
        for leg in legs:
            leg.abort()


async def test_a_channel_outlives_its_circuits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing_module, "MIN_RENEW_S", 0.5)
    monkeypatch.setattr(dialing_module, "RENEW_AT", 0.5)
    async with three(tmp_path) as (relay, target, dialer):
        lines = relay.part.server.lines
        object.__setattr__(lines._limits, "circuit_s", 1.0)
        await dialer.transport.connect(target.behind(relay))
        stream = await dialer.transport.open_stream(target.id, ECHO)
        numbers = set()
        for n in range(350):  # one stream, over at least three circuits
            word = f"{n:08}".encode()
            await stream.write(word)
            assert await stream.read_exactly(8) == word
            numbers |= {line.circuit.number for line in lines}
            await asyncio.sleep(0.01)
        assert len(numbers) >= 3
        assert len(lines) <= 2
        outcomes = [a.outcome for a in dialer.kernel.service(ATTEMPTS).of(target.id)]
        assert not [each for each in outcomes if "per circuit" in each]
        stream.reset()


async def test_a_circuit_ends_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing_module, "RENEW_AT", 100.0)
    async with three(tmp_path) as (relay, target, dialer):
        object.__setattr__(relay.part.server.lines._limits, "circuit_s", 0.5)
        await dialer.transport.connect(target.behind(relay))
        attempts = dialer.kernel.service(ATTEMPTS)
        await wait_for(lambda: "min per circuit" in attempts.of(target.id)[-1].outcome)
        await wait_for(lambda: dialer.transport.peer(target.id) is None)


async def test_a_node_with_relay_false_never_relays(tmp_path: Path) -> None:
    async with (
        relay_node(tmp_path, "relay", Reach.PUBLIC, relay=False) as relay,
        relay_node(tmp_path, "target") as target,
        relay_node(tmp_path, "dialer") as dialer,
    ):
        target.plugin.relays.add(relay.id)
        await target.transport.connect(relay.address)
        target.part.reserver.wake.set()
        await wait_for(lambda: target.part.reserver.problems)
        assert target.part.reserver.problems == {
            relay.id: "this node relays for nobody: plugins.nat.relay is false"
        }
        assert not target.live()
        with pytest.raises(Unavailable, match="relays for nobody: plugins.nat.relay is false"):
            await dialer.transport.connect(target.behind(relay))
        assert len(relay.part.server.grants) == len(relay.part.server.lines) == 0
        assert relay.part.server.lines.budgets.passed == 0


async def test_a_node_relays_only_while_everybody_can_dial_it(tmp_path: Path) -> None:
    async with (
        relay_node(tmp_path, "relay", Reach.CONE) as relay,
        relay_node(
            tmp_path, "announced", Reach.CONE, transport={"announce": "192.0.2.1:1"}
        ) as told,
        relay_node(tmp_path, "target") as target,
    ):
        assert "not known to be reachable" in relay.part.refusal()
        assert told.part.refusal() == ""
        relay.plugin.reach = Reach.PUBLIC
        await target.reserves_at(relay)
        relay.plugin.reach = Reach.SYMMETRIC
        with pytest.raises(Unavailable, match="relays for nobody"):
            await told.transport.connect(target.behind(relay))


async def test_only_nodes_that_nobody_can_dial_reserve(tmp_path: Path) -> None:
    async with (
        relay_node(tmp_path, "relay", Reach.PUBLIC) as relay,
        relay_node(tmp_path, "node", Reach.CONE) as node,
    ):
        await node.reserves_at(relay)
        assert len(relay.part.server.grants) == 1
        node.plugin.reach = Reach.PUBLIC
        node.part.reserver.wake.set()
        await wait_for(lambda: not node.part.reserver.held)
        await wait_for(lambda: len(relay.part.server.grants) == 0)  # given back at once
        assert all("p2p-circuit" not in text for text in node.transport.addresses())


async def test_a_masked_node_opens_no_connection_that_cannot_be_masked(tmp_path: Path) -> None:
    async with (
        three(tmp_path) as (relay, target, _),
        relay_node(tmp_path, "masked", transport={"masking": True}) as masked,
    ):
        masked.plugin.relays.add(relay.id)
        await masked.transport.connect(relay.address)
        masked.part.reserver.wake.set()
        with pytest.raises(Unavailable, match="no dialer supports this address"):
            await masked.transport.connect(target.behind(relay))
        assert not masked.part.reserver.held
        assert "cannot be masked" in masked.part.state()


async def test_address_that_ends_at_a_relay_says_what_is_missing(tmp_path: Path) -> None:
    async with three(tmp_path) as (relay, _, dialer):
        with pytest.raises(InvalidParams, match="ends at a relay; append /p2p/ID of the peer"):
            await dialer.transport.connect(f"{relay.address}/p2p-circuit")


async def test_nobody_is_reached_without_a_reservation(tmp_path: Path) -> None:
    async with three(tmp_path) as (relay, target, dialer):
        lonely = Identity("lonely").peer_id
        with pytest.raises(Unavailable, match="has no reservation at this relay now"):
            address = target.behind(relay).replace(target.id, lonely)
            await dialer.transport.connect(address)
        # Neither does a node that merely says it had one.
        await target.kernel.stop()
        await wait_for(lambda: not relay.part.server.is_connected(target.id))
        with pytest.raises(Unavailable, match="has no reservation at this relay now"):
            await dialer.transport.connect(target.behind(relay))


async def cut_after(relay: RelayNode, *parts: bytes) -> None:
    """Send these to the peer port, one after the other; fails unless the relay hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.05)
            await asyncio.wait_for(reader.readexactly(1), 5)
    finally:
        writer.close()


async def test_guessed_tokens_are_cut(tmp_path: Path) -> None:
    async with three(tmp_path) as (relay, _, _):
        await cut_after(relay, MAGIC + bytes(TOKEN_BYTES))
        await cut_after(relay, MAGIC[:3], MAGIC[3:] + bytes(9), bytes(TOKEN_BYTES - 9))
        half_open = relay.transport.listener.statistics
        await wait_for(lambda: half_open()["half_open"] == 0)


async def test_a_leg_that_speaks_before_both_ends_are_there_is_cut(tmp_path: Path) -> None:
    async with three(tmp_path) as (relay, target, dialer):
        target.part.reserver.held[0].on_incoming = lambda *_: None
        stream = await dialer.transport.open_stream(relay.id, PROTOCOL, addresses=[relay.address])
        await stream.write(encode(Connect(target.id)))
        opened = read(await read_frame(stream))
        assert isinstance(opened, Opened)
        await cut_after(relay, MAGIC + opened.token + b"early")
        assert len(relay.part.server.lines) == 1  # whoever that was, the token still works
        await cut_after(relay, MAGIC + opened.token, b"early")
        ended = read(await read_frame(stream))
        assert "the connection of the dialer was lost" in str(ended)
        assert len(relay.part.server.lines) == 0
        stream.reset()


async def test_a_circuit_whose_end_does_not_connect_is_over_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "CLAIM_S", 1.0)
    async with three(tmp_path) as (relay, target, dialer):
        stream = await dialer.transport.open_stream(relay.id, PROTOCOL, addresses=[relay.address])
        await stream.write(encode(Connect(target.id)))
        opened = read(await read_frame(stream))
        ended = read(await read_frame(stream))
        assert "the dialer did not connect to the relay within 1 s" in str(ended), opened
        assert len(relay.part.server.lines) == 0
        stream.reset()


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\0\0\x05\0\x03\x81\xa2x",
        encode(Refused(Unavailable("no"))),
        b"\xff\xff\xff\xff",
        encode(Reserve(b"not a reservation")),
        encode(Reserve(issue(Identity("x"), Identity("y").peer_id, Terms(1, 1, 1), 1e9).raw)),
    ],
)
async def test_hostile_messages_are_refused_and_reported(tmp_path: Path, sent: bytes) -> None:
    async with three(tmp_path) as (relay, target, dialer):
        stream = await dialer.transport.open_stream(relay.id, PROTOCOL, addresses=[relay.address])
        await stream.write(sent)
        try:
            answer = read(await read_frame(stream))
        except AitorrentError:
            answer = None
        assert answer is None or isinstance(answer, Refused)
        history = relay.transport.guard.history(dialer.id)
        assert [entry.offence for entry in history] == [Offence.INVALID_MESSAGE]
        assert target.live() == [relay.id]


async def test_a_relay_that_stops_tells_its_clients_to_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "SMEAR_S", 0.5)
    async with (
        relay_node(tmp_path, "first", Reach.PUBLIC) as first,
        relay_node(tmp_path, "second", Reach.PUBLIC) as second,
        relay_node(tmp_path, "target", reservations=1) as target,
    ):
        await target.reserves_at(first)
        target.plugin.relays.add(second.id)
        await target.transport.connect(second.address)
        first.kernel.bus.publish(Draining(True))
        await wait_for(lambda: target.live() == [second.id])
        assert target.transport.peer(first.id) is not None
        assert [a for a in target.transport.addresses() if "p2p-circuit" in a] == [
            target.behind(second)
        ]


async def test_a_reservation_is_renewed_at_half_its_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_nat.relay.reservation.LIFETIME_S", 2)
    monkeypatch.setattr("aitorrent_nat.relay.reservation.MIN_LIFETIME_S", 1)
    async with three(tmp_path) as (relay, target, _):
        held = target.part.reserver.held[0]
        first = held.reservation
        assert first is not None and first.lifetime_s == 2
        await wait_for(lambda: held.reservation != first)
        assert held.is_live
        assert len(relay.part.server.grants) == 1


async def test_a_relay_whose_clock_jumps_makes_its_clients_reserve_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_nat.relay.choosing.FIRST_WAIT_S", 0.5)
    async with three(tmp_path) as (relay, target, dialer):
        before = target.part.reserver.held[0]
        relay.part.server.grants.expire(time.time() + 10 * 3600)
        with pytest.raises(Unavailable, match="has no reservation at this relay now"):
            await dialer.transport.connect(target.behind(relay))
        relay.part.server.expire()
        await wait_for(lambda: before not in target.part.reserver.held)
        await wait_for(lambda: target.live() == [relay.id])
        await dialer.transport.connect(target.behind(relay))


async def test_reservations_outlive_a_restart_of_either_side(tmp_path: Path) -> None:
    async with relay_node(tmp_path, "target") as target:
        async with relay_node(tmp_path, "relay", Reach.PUBLIC) as relay:
            port = relay.port
            await target.reserves_at(relay)
            await wait_for(lambda: not relay.part._saved.changed.is_set())
            raw = [grant.reservation.raw for grant in relay.part.server.grants]
        await wait_for(lambda: not target.live())
        async with relay_node(tmp_path, "relay", Reach.PUBLIC, transport={"port": port}) as relay:
            assert [grant.reservation.raw for grant in relay.part.server.grants] == raw
    async with relay_node(tmp_path, "relay", Reach.PUBLIC, transport={"port": port}) as relay:
        async with relay_node(tmp_path, "target") as target:
            await target.reserves_at(relay)
        # The node dials its relay by itself, and shows what it holds.
        async with relay_node(tmp_path, "target") as target:
            await wait_for(lambda: target.live() == [relay.id])
            assert target.behind(relay) in target.transport.addresses()


async def test_the_hour_of_a_pair_outlives_a_restart_of_the_relay(tmp_path: Path) -> None:
    limit = {"bytes_per_hour": "1 MiB"}
    async with relay_node(tmp_path, "target") as target, relay_node(tmp_path, "dialer") as dialer:
        async with relay_node(tmp_path, "relay", Reach.PUBLIC, relay_limits=limit) as relay:
            port = relay.port
            await target.reserves_at(relay)
            await dialer.transport.connect(target.behind(relay))
            with pytest.raises(PeerGone):
                await exchange(dialer, target, bytes(2 * MIB))
        async with relay_node(
            tmp_path, "relay", Reach.PUBLIC, transport={"port": port}, relay_limits=limit
        ) as relay:
            await wait_for(lambda: target.live() == [relay.id], 20)
            with pytest.raises(Unavailable, match=r"allows in an hour; try again in \d+ min"):
                await dialer.transport.connect(target.behind(relay))


async def test_a_damaged_database_is_set_aside_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with three(tmp_path) as (relay, _, _):
        (file,) = (tmp_path / "relay").rglob("nat.sqlite")
    file.write_bytes(b"not a database" * 1000)
    async with relay_node(tmp_path, "relay", Reach.PUBLIC) as relay:
        assert len(relay.part.server.grants) == 0
        assert "the database of reservations was damaged; moved it to" in caplog.text
    assert [each.name for each in file.parent.glob("nat.sqlite*damaged*")] or len(
        list(file.parent.glob("nat.sqlite*"))
    ) > 1
