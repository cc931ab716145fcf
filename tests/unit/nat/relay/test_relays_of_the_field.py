"""What relays and their users do, mostly from public bug reports, which then name the test."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from aitorrent_nat.relay import budgets as budgets_module
from aitorrent_nat.relay.budgets import MIN_PASS_BYTES, Budgets
from aitorrent_nat.relay.choosing import MAX_WAIT_S, Candidate, Setbacks, choose
from aitorrent_nat.relay.circuits import Circuits, End
from aitorrent_nat.relay.claims import MAGIC, Leg, LegPreface
from aitorrent_nat.relay.dialing import RelayDialer
from aitorrent_nat.relay.grants import PER_SUBNET, Grants
from aitorrent_nat.relay.messages import (
    MAX_DELAY_S,
    TOKEN_BYTES,
    Closing,
    encode,
    read_from_relay,
)
from aitorrent_nat.relay.reservation import (
    LIFETIME_S,
    MIN_LIFETIME_S,
    Terms,
    issue,
    read_reservation,
)
from aitorrentd.api import Busy, Conflict, InvalidParams, PeerId, ProtocolError, decode_frame
from aitorrentd.api.network.addresses import parse_address
from tests.support.transport.transport_nodes import Identity

MIB = 2**20
A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
RELAY, CLIENT = Identity("relay"), Identity("client")
TERMS = Terms(rate=2**21, bytes_per_hour=2**28, circuits=16)
NOW = 1_800_000_000.0


class Wire(asyncio.Transport):
    """A connection that remembers how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


def leg(claimed: list[bytes]) -> tuple[asyncio.Protocol, Wire, list[bool]]:
    """A connection to the peer port that has said nothing yet; no token is valid."""
    accepted: list[bool] = []

    def claim(token: bytes, leg: Leg) -> bool:
        claimed.append(token)
        return False

    protocol = LegPreface(claim).serve(("203.0.113.1", 4000), lambda: accepted.append(True))
    wire = Wire()
    protocol.connection_made(wire)
    return protocol, wire, accepted


@pytest.mark.parametrize("raw", [b"", b"\x40\x00", MAGIC, MAGIC + bytes(TOKEN_BYTES - 1)])
def test_pion_turn_217_too_few_bytes_and_an_end_do_no_harm(raw: bytes) -> None:
    claimed: list[bytes] = []
    protocol, _, accepted = leg(claimed)
    protocol.data_received(raw)
    protocol.eof_received()
    protocol.connection_lost(None)
    assert not claimed and not accepted


def test_syncthing_3272_unknown_and_used_tokens_are_not_joined() -> None:
    circuits: Circuits[str] = Circuits(16)
    circuit = circuits.open(A, B, 0.0)
    token = circuit.tokens[End.DIALER]
    assert circuits.claim(bytes(TOKEN_BYTES), "stranger", 1.0) is None
    assert circuits.claim(token, "dialer", 1.0) == (circuit, End.DIALER)
    assert circuits.claim(token, "again", 1.0) is None
    assert circuit.legs == {End.DIALER: "dialer"}


def test_pjproject_2213_bytes_right_after_a_token_are_not_lost_in_silence() -> None:
    claimed: list[bytes] = []
    protocol, wire, accepted = leg(claimed)
    protocol.data_received(MAGIC + bytes(TOKEN_BYTES) + b"more")
    assert claimed == [bytes(TOKEN_BYTES) + b"more"]  # which is no token
    assert wire.is_aborted and not accepted


def test_coturn_1128_refused_requests_take_up_no_memory() -> None:
    circuits: Circuits[str] = Circuits(2)
    budgets = Budgets(2 * MIB, 256 * MIB, 1000 * MIB, 0.0)
    for _ in range(2):
        circuits.open(A, B, 0.0)
    for _ in range(1000):
        with pytest.raises(Busy, match="limit per node"):
            circuits.open(A, C, 0.0)
        with pytest.raises(Busy, match="limit per node"):
            circuits.open(C, A, 0.0)
        budgets.give_up(budgets.take_up(A, C, 0.0))
    assert (len(circuits), circuits.count(A), circuits.count(C), len(budgets)) == (2, 2, 0, 1)


def test_js_libp2p_2833_clients_that_come_and_go_leave_no_slot_taken() -> None:
    grants, circuits = Grants(RELAY, TERMS, 4), Circuits[str](2)
    for n in range(200):
        client = Identity(f"client {n % 8}").peer_id
        grants.reserve(client, f"203.0.{n}.1", b"", NOW + n)
        circuit = circuits.open(A, client, n)
        circuits.claim(circuit.tokens[End.DIALER], "leg", n)
        assert circuits.end(circuit) and not circuits.end(circuit)
        grants.release(client)
        grants.release(client)
    assert (len(grants), len(circuits), circuits.count(A)) == (0, 0, 0)


def test_rust_libp2p_2059_one_client_with_many_requests_has_one_slot() -> None:
    grants = Grants(RELAY, TERMS, 128)
    for n in range(50):
        grants.reserve(CLIENT.peer_id, f"203.{n}.113.1", b"", NOW + n)
    assert len(grants) == 1


def test_go_libp2p_circuit_132_moving_between_networks_gives_no_network_more_slots() -> None:
    grants = Grants(RELAY, TERMS, 128)
    clients = [Identity(f"client {n}").peer_id for n in range(PER_SUBNET + 1)]
    for client in clients[:-1]:
        grants.reserve(client, "203.0.113.1", b"", NOW)
    elsewhere = grants.reserve(clients[-1], "198.51.100.1", b"", NOW)
    with pytest.raises(Busy, match="per network"):
        grants.reserve(clients[-1], "203.0.113.9", elsewhere.raw, NOW + 1)


def test_go_libp2p_circuit_132_thousands_of_identities_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets_module, "MAX_PAIRS", 10)
    budgets = Budgets(2 * MIB, 256 * MIB, 1000 * MIB, 0.0)
    busy = budgets.take_up(A, B, 0.0)
    budgets.spend(busy, 256 * MIB, 0.0)
    budgets.give_up(busy)
    for n in range(100):
        each = budgets.take_up(PeerId(f"x{n}"), B, 1.0)
        budgets.spend(each, 1, 1.0)
        budgets.give_up(each)
    assert len(budgets) == 10
    with pytest.raises(Busy, match="try again in"):
        budgets.take_up(A, B, 2.0)  # whoever sent much is not forgotten


def test_syncthing_10072_a_pair_that_is_paced_slows_no_other_one() -> None:
    budgets = Budgets(MIB, 256 * MIB, 1000 * MIB, 0.0)
    one, other = budgets.take_up(A, B, 0.0), budgets.take_up(A, C, 0.0)
    budgets.spend(one, budgets.left(one, 0.0), 0.0)
    assert budgets.left(one, 0.0) == 0
    assert budgets.wait_s(one, 0.0) == pytest.approx(MIN_PASS_BYTES / MIB)
    assert budgets.left(other, 0.0) == MIB


def test_relaysrv_36_nodes_have_no_circuit_to_themselves() -> None:
    with pytest.raises(Conflict, match="two nodes"):
        Circuits[str](2).open(A, A, 0.0)


def test_relaysrv_36_nobody_dials_itself_or_the_relay_through_a_relay() -> None:
    me, relay, peer = CLIENT.peer_id, RELAY.peer_id, Identity("peer").peer_id
    node: Any = SimpleNamespace(node_id=me, is_masking=False)
    nothing: Any = None
    dialer = RelayDialer(nothing, nothing, node, nothing, nothing)
    behind = f"/ip4/203.0.113.1/tcp/8468/p2p/{relay}/p2p-circuit/p2p/"
    assert dialer.can_try(parse_address(behind + peer))
    assert not dialer.can_try(parse_address(behind + me))
    with pytest.raises(InvalidParams, match="its own relay"):
        parse_address(behind + relay)


def test_relaysrv_13_a_reservation_of_another_relay_is_not_shown_as_this_ones() -> None:
    grants = Grants(RELAY, TERMS, 4)
    other = issue(Identity("other"), CLIENT.peer_id, TERMS, NOW)
    with pytest.raises(ProtocolError, match="another relay"):
        grants.reserve(CLIENT.peer_id, "203.0.113.1", other.raw, NOW)


@pytest.mark.parametrize("lifetime_s", [0, 1, MIN_LIFETIME_S - 1])
def test_a_reservation_too_short_to_be_renewed_is_none(
    lifetime_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_nat.relay.reservation.LIFETIME_S", MIN_LIFETIME_S)
    raw = issue(RELAY, CLIENT.peer_id, TERMS, NOW).raw
    assert read_reservation(raw).lifetime_s == MIN_LIFETIME_S
    monkeypatch.setattr("aitorrent_nat.relay.reservation.LIFETIME_S", lifetime_s)
    with pytest.raises(ProtocolError, match="malformed reservation"):
        issue(RELAY, CLIENT.peer_id, TERMS, NOW)


def test_js_libp2p_3601_esphome_tailscale_33_a_relay_that_is_down_is_tried_again_for_ever() -> None:
    setbacks, now = Setbacks(random.Random(1).random), 0.0
    waits = []
    for _ in range(100):
        waits.append(setbacks.failed(A, now))
        now += waits[-1]
        assert setbacks.may_try(A, now)
    assert max(waits) <= MAX_WAIT_S
    assert sum(wait < MAX_WAIT_S / 2 for wait in waits) < 10


def test_a_relay_that_stops_keeps_its_place_for_a_minute_at_most() -> None:
    frame = decode_frame(encode(Closing(MAX_DELAY_S + 1)), 4)
    with pytest.raises(ProtocolError, match="after_s"):
        read_from_relay(frame)
    assert MAX_DELAY_S <= 60


def test_syncthing_2368_the_next_relay_is_taken_when_the_nearest_fails() -> None:
    relays = [Candidate(A, "203.0.113.1", 0.01), Candidate(B, "198.51.100.1", 0.2)]
    setbacks = Setbacks(lambda: 0.5)
    assert [c.peer for c in choose(relays, (), 1)] == [A]
    setbacks.failed(A, 0.0)
    usable = [c for c in relays if setbacks.may_try(c.peer, 1.0)]
    assert [c.peer for c in choose(usable, (), 1)] == [B]


def test_calimero_2446_a_reservation_that_lapsed_is_given_again() -> None:
    grants = Grants(RELAY, TERMS, 1)
    old = grants.reserve(CLIENT.peer_id, "203.0.113.1", b"", NOW)
    later = NOW + 3 * LIFETIME_S  # a laptop that slept
    assert grants.reserve(CLIENT.peer_id, "198.51.100.1", old.raw, later).expires > later
