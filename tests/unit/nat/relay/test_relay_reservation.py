"""Reservations: what a relay signs, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_nat.relay.reservation import (
    DOMAIN,
    LIFETIME_S,
    MAX_RESERVATION_BYTES,
    SKEW_S,
    Terms,
    check,
    issue,
    read_reservation,
)
from aitorrentd.api import ProtocolError, pack, public_key
from tests.support.transport.transport_nodes import Identity

RELAY, CLIENT, OTHER = Identity("relay"), Identity("client"), Identity("other")
TERMS = Terms(rate=2 * 2**20, bytes_per_hour=256 * 2**20, circuits=16)
NOW = 1_800_000_000.0


def test_reservation_reads_back_as_the_relay_signed_it() -> None:
    made = issue(RELAY, CLIENT.peer_id, TERMS, NOW)
    read = read_reservation(made.raw)
    assert read == made
    assert (read.relay, read.client, read.terms) == (RELAY.peer_id, CLIENT.peer_id, TERMS)
    assert read.expires - read.issued == read.lifetime_s == LIFETIME_S
    assert len(made.raw) <= MAX_RESERVATION_BYTES
    check(read, RELAY.peer_id, CLIENT.peer_id, NOW)


@given(position=st.integers(0, 10_000), flipped=st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, flipped: int) -> None:
    raw = bytearray(issue(RELAY, CLIENT.peer_id, TERMS, NOW).raw)
    raw[position % len(raw)] ^= flipped
    with pytest.raises(ProtocolError, match="reservation"):
        read_reservation(bytes(raw))


@given(st.binary(max_size=2 * MAX_RESERVATION_BYTES))
def test_bytes_of_strangers_are_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="reservation"):
        read_reservation(raw)


def test_a_signature_for_another_purpose_is_not_one() -> None:
    body = issue(RELAY, CLIENT.peer_id, TERMS, NOW).raw[64:]
    with pytest.raises(ProtocolError, match="forged"):
        read_reservation(RELAY.sign("aitd/peer/1", body) + body)
    assert read_reservation(RELAY.sign(DOMAIN, body) + body).relay == RELAY.peer_id


def test_a_reservation_is_of_use_only_to_its_client_at_its_relay_in_its_hour() -> None:
    made = issue(RELAY, CLIENT.peer_id, TERMS, NOW)
    with pytest.raises(ProtocolError, match="another relay"):
        check(made, OTHER.peer_id, CLIENT.peer_id, NOW)
    with pytest.raises(ProtocolError, match="another node"):
        check(made, RELAY.peer_id, OTHER.peer_id, NOW)
    with pytest.raises(ProtocolError, match="expired 1 s ago"):
        check(made, RELAY.peer_id, CLIENT.peer_id, NOW + LIFETIME_S + 1)
    with pytest.raises(ProtocolError, match="in the future"):
        check(made, RELAY.peer_id, CLIENT.peer_id, NOW - SKEW_S - 1)
    check(made, RELAY.peer_id, CLIENT.peer_id, NOW - SKEW_S + 1)


def test_nobody_can_promise_more_than_an_hour() -> None:
    fields = {
        "v": 1,
        "relay": RELAY.public_key,
        "client": public_key(CLIENT.peer_id),
        "issued": int(NOW),
        "expires": int(NOW) + LIFETIME_S + 1,
        "rate": 1,
        "hour": 1,
        "circuits": 1,
    }
    body = pack(fields)
    with pytest.raises(ProtocolError, match="expires must be"):
        read_reservation(RELAY.sign(DOMAIN, body) + body)
