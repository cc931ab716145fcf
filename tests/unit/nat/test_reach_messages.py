"""What NAT plugins ask each other: round trips, and what of hostile fields is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_nat.networks import is_inside, is_place, region_of, subnet_of
from aitorrent_nat.reach.assisted import Witness, chosen
from aitorrent_nat.reach.messages import (
    Ask,
    DialBack,
    Hello,
    SendDatagram,
    fields_of,
    read_ask,
)
from aitorrentd.api import PeerId, ProtocolError


@pytest.mark.parametrize(
    "ask",
    [
        Hello(),
        Hello(8469, 9000, relays=True),
        SendDatagram(40_000, bytes(12), from_alternate=True),
        DialBack(8468, bytes(16)),
    ],
)
def test_question_is_read_as_it_was_written(ask: Ask) -> None:
    assert read_ask(fields_of(ask)) == ask


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"do": "shell"}, "do must be hello, datagram or dial"),
        ({"do": 7}, "do must be a string"),
        ({"port": 0}, "port must be an integer from 1 to 65535"),
        ({"port": 65_536}, "port must be"),
        ({"port": True}, "port must be"),
        ({"transaction": bytes(11)}, "transaction must be 12 bytes"),
        ({"transaction": "x" * 12}, "transaction must be 12 bytes"),
        ({"alternate": 1}, "alternate must be true or false"),
        ({"do": "dial"}, "nonce must be 16 bytes"),
        ({"do": "hello"}, "stun must be an integer"),
    ],
)
def test_wrong_field_is_refused(changes: dict[str, Any], reason: str) -> None:
    right = fields_of(SendDatagram(40_000, bytes(12), from_alternate=False))
    with pytest.raises(ProtocolError, match=reason):
        read_ask({**right, **changes})


@given(
    st.dictionaries(
        st.sampled_from(["do", "port", "transaction", "alternate", "nonce", "stun", "relays"]),
        st.one_of(
            st.none(),
            st.integers(),
            st.binary(max_size=20),
            st.text(max_size=8),
            st.sampled_from(["hello", "datagram", "dial"]),
        ),
    )
)
def test_no_fields_raise_anything_else(fields: dict[str, Any]) -> None:
    try:
        read_ask(fields)
    except ProtocolError as e:
        assert e.message


def witness(name: str, host: str) -> Witness:
    return Witness(PeerId(name), (host, 8469), 9000)


def test_witnesses_are_of_as_many_networks_as_possible() -> None:
    near = [witness(f"n{i}", f"198.18.0.{i}") for i in range(1, 20)]
    far = [witness("f1", "198.19.0.1"), witness("f2", "198.20.0.1")]
    found = chosen([*near, *far])
    assert len(found) == 8
    assert [each.peer for each in found[:3]] == ["n1", "f1", "f2"]


def test_witnesses_behind_nats_come_last() -> None:
    hidden = [
        Witness(PeerId(f"h{i}"), (f"198.{i}.0.1", 8469), 9000, is_likely=False) for i in range(20)
    ]
    found = chosen([*hidden, witness("n1", "203.0.113.1"), witness("n2", "203.0.113.2")])
    assert [each.peer for each in found[:3]] == ["n1", "n2", "h0"]
    assert len(found) == 8


def test_host_with_many_peers_is_one_witness() -> None:
    found = chosen([witness(f"n{i}", "198.18.0.1") for i in range(5)])
    assert [each.peer for each in found] == ["n0"]


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("192.168.1.5", True),
        ("10.0.0.1", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("100.64.0.1", True),
        ("127.0.0.2", True),
        ("fd00::1", True),
        ("fe80::1", True),
        ("2001:db8::1", False),
        ("198.18.0.1", False),
    ],
)
def test_addresses_inside_prove_nothing_about_strangers(host: str, inside: bool) -> None:
    assert is_inside(host) is inside


def test_networks_of_addresses() -> None:
    assert (subnet_of("203.0.113.7"), region_of("203.0.113.7")) == (
        "203.0.113.0/24",
        "203.0.0.0/16",
    )
    assert region_of("2001:db8:1::1") == "2001:db8::/32"
    places = [("0.0.0.5", 1), ("x", 1), ("1.2.3.4", 0), ("1.2.3.4", 65_536), ("ff02::1", 1)]
    assert not any(is_place(*place) for place in places)
    assert is_place("1.2.3.4", 5)
