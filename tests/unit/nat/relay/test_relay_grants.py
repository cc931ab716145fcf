"""The reservations that a relay gives."""

from __future__ import annotations

import pytest

from aitorrent_nat.relay.grants import PER_REGION, PER_SUBNET, Grants
from aitorrent_nat.relay.reservation import LIFETIME_S, Terms, issue
from aitorrentd.api import Busy, PeerId, ProtocolError
from tests.support.transport.transport_nodes import Identity

RELAY = Identity("relay")
TERMS = Terms(rate=2**21, bytes_per_hour=2**28, circuits=16)
NOW = 1_800_000_000.0


def client(n: int) -> PeerId:
    return Identity(f"client {n}").peer_id


def grants(most: int = 128) -> Grants:
    return Grants(RELAY, TERMS, most)


def test_a_renewal_takes_no_second_slot() -> None:
    given = grants(most=1)
    first = given.reserve(client(1), "203.0.113.1", b"", NOW)
    later = given.reserve(client(1), "198.51.100.1", first.raw, NOW + LIFETIME_S / 2)
    assert len(given) == 1
    assert later.expires == first.expires + LIFETIME_S / 2
    with pytest.raises(Busy, match="1 reservations, its limit"):
        given.reserve(client(2), "203.0.113.2", b"", NOW)


def test_a_client_keeps_its_slot_until_the_reservation_expires() -> None:
    given = grants(most=1)
    given.reserve(client(1), "203.0.113.1", b"", NOW)
    with pytest.raises(Busy, match="try another one"):
        given.reserve(client(2), "203.0.113.2", b"", NOW + LIFETIME_S - 1)
    given.reserve(client(2), "203.0.113.2", b"", NOW + LIFETIME_S)
    assert client(1) not in given


def test_a_released_slot_is_free_at_once() -> None:
    given = grants(most=1)
    given.reserve(client(1), "203.0.113.1", b"", NOW)
    given.release(client(1))
    given.reserve(client(2), "203.0.113.2", b"", NOW)


@pytest.mark.parametrize(
    ("host", "neighbour"),
    [("203.0.113.{}", "203.0.114.1"), ("2001:db8:0:{}::1", "2001:db8:0:100::1")],
)
def test_one_network_cannot_take_all_slots(host: str, neighbour: str) -> None:
    given = grants()
    for n in range(PER_SUBNET):
        given.reserve(client(n), host.format(n + 1), b"", NOW)
    with pytest.raises(Busy, match=f"{PER_SUBNET} reservations of .*per network"):
        given.reserve(client(99), host.format(99), b"", NOW)
    given.reserve(client(99), neighbour, b"", NOW)
    # Nor by moving there with a reservation from elsewhere.
    with pytest.raises(Busy, match="per network"):
        given.reserve(client(99), host.format(99), b"", NOW)
    given.reserve(client(0), host.format(200), b"", NOW)  # it was there before


def test_one_region_cannot_take_all_slots() -> None:
    given = grants()
    for n in range(PER_REGION):
        given.reserve(client(n), f"198.18.{n}.1", b"", NOW)
    with pytest.raises(Busy, match=f"{PER_REGION} reservations of 198.18.0.0/16"):
        given.reserve(client(99), "198.18.200.1", b"", NOW)


def test_loopback_has_no_limit_per_network() -> None:
    given = grants()
    for n in range(PER_REGION + 1):
        given.reserve(client(n), "127.0.0.1", b"", NOW)
    assert len(given) == PER_REGION + 1


def test_only_the_clients_own_reservation_is_accepted_as_proof() -> None:
    given = grants()
    with pytest.raises(ProtocolError, match="another relay"):
        forged = issue(Identity("other"), client(1), TERMS, NOW)
        given.reserve(client(1), "203.0.113.1", forged.raw, NOW)
    with pytest.raises(ProtocolError, match="another node"):
        given.reserve(client(1), "203.0.113.1", issue(RELAY, client(2), TERMS, NOW).raw, NOW)
    with pytest.raises(ProtocolError, match="reservation"):
        given.reserve(client(1), "203.0.113.1", b"junk", NOW)
    assert len(given) == 0
    old = issue(RELAY, client(1), TERMS, NOW - 2 * LIFETIME_S)  # its client was away
    given.reserve(client(1), "203.0.113.1", old.raw, NOW)


def test_reservations_come_back_and_forged_ones_do_not() -> None:
    before = grants()
    for n in range(3):
        before.reserve(client(n), f"203.0.113.{n}", b"", NOW)
    saved = [(grant.reservation.raw, grant.host) for grant in before]
    forged = issue(Identity("other"), client(7), TERMS, NOW).raw
    after = grants()
    assert after.restore([*saved, (forged, "203.0.113.7"), (b"", "")], NOW + 1) == 3
    assert {grant.client for grant in after} == {client(n) for n in range(3)}
    assert grants().restore(saved, NOW + LIFETIME_S) == 0


def test_every_change_is_announced() -> None:
    changes: list[int] = []
    given = grants()
    given.on_change = lambda: changes.append(len(given))
    given.reserve(client(1), "203.0.113.1", b"", NOW)
    given.reserve(client(2), "203.0.113.2", b"", NOW + 1)
    given.release(client(1))
    given.release(client(1))
    given.expire(NOW + 2 * LIFETIME_S)
    assert changes == [1, 2, 1, 0]
