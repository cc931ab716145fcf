"""What observations say about a NAT, in the terms of RFC 5780."""

from __future__ import annotations

import pytest

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.behaviour import (
    Filtering,
    Mapping,
    Observation,
    external_of,
    filtering_of,
    keeps_ports,
    mapping_of,
)

OWN = frozenset({("10.0.0.5", 5000)})
EXTERNAL = "203.0.113.7"
HOSTS = ("198.18.0.1", "198.18.0.2", "198.19.0.1", "198.20.0.1")


def seen(*ports: int, host: str = EXTERNAL) -> list[Observation]:
    """One observation of each witness, at these external ports."""
    return [
        Observation((witness, 3478), (host, port))
        for witness, port in zip(HOSTS, ports, strict=False)
    ]


@pytest.mark.parametrize("is_trusted", [True, False])
def test_same_port_everywhere_is_endpoint_independent(is_trusted: bool) -> None:
    found = mapping_of(seen(7000, 7000, 7000), OWN, is_trusted=is_trusted)
    assert found is Mapping.ENDPOINT_INDEPENDENT


def test_own_address_is_no_nat() -> None:
    at_home = seen(5000, 5000, 5000, host="10.0.0.5")
    assert mapping_of(at_home, OWN, is_trusted=False) is Mapping.NONE
    assert mapping_of(at_home[:1], OWN, is_trusted=True) is Mapping.NONE
    assert mapping_of(at_home[:1], OWN, is_trusted=False) is Mapping.UNKNOWN


def test_one_server_with_one_address_does_not_tell_the_mapping() -> None:
    assert mapping_of(seen(7000), OWN, is_trusted=True) is Mapping.UNKNOWN
    assert mapping_of([], OWN, is_trusted=True) is Mapping.UNKNOWN


def test_dependent_mappings_are_told_apart_by_a_second_port_of_a_host() -> None:
    varying = seen(7000, 7001, 7002)
    second: Place = (HOSTS[0], 3479)
    by_address = [*varying, Observation(second, (EXTERNAL, 7000))]
    assert mapping_of(by_address, OWN, is_trusted=True) is Mapping.ADDRESS_DEPENDENT
    by_port = [*varying, Observation(second, (EXTERNAL, 7003))]
    assert mapping_of(by_port, OWN, is_trusted=False) is Mapping.ADDRESS_AND_PORT_DEPENDENT


def test_lying_peers_do_not_change_the_mapping() -> None:
    """Appendix C, number 21."""
    liar = Observation(("192.0.2.1", 3478), ("192.0.2.66", 1))
    honest = seen(7000, 7000, 7000)
    found = mapping_of([*honest, liar], OWN, is_trusted=False)
    assert found is Mapping.ENDPOINT_INDEPENDENT
    claiming_same = [liar, Observation(("192.0.3.1", 3478), ("192.0.2.66", 1))]
    symmetric = mapping_of([*seen(1, 2, 3), *claiming_same], OWN, is_trusted=False)
    assert symmetric is Mapping.UNKNOWN


def test_two_peers_are_too_few() -> None:
    assert mapping_of(seen(7000, 7000), OWN, is_trusted=False) is Mapping.UNKNOWN
    assert mapping_of(seen(7000, 7001), OWN, is_trusted=False) is Mapping.UNKNOWN


def test_external_address_and_ports() -> None:
    assert external_of(seen(1, 2, 3), is_trusted=False) == EXTERNAL
    assert external_of(seen(1, 2), is_trusted=False) == ""
    assert external_of([], is_trusted=True) == ""
    assert keeps_ports(seen(5000, 5000, 7000), 5000) is True
    assert keeps_ports(seen(7001, 7002), 5000) is False
    assert keeps_ports([], 5000) is None


@pytest.mark.parametrize(
    ("other_host", "other_port", "filtering"),
    [
        (True, True, Filtering.ENDPOINT_INDEPENDENT),
        (False, True, Filtering.ADDRESS_DEPENDENT),
        (False, False, Filtering.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_filtering_is_what_did_not_arrive(
    other_host: bool, other_port: bool, filtering: Filtering
) -> None:
    assert filtering_of(from_other_host=other_host, from_other_port=other_port) is filtering
