"""PCP and NAT-PMP: datagrams as in the RFCs, and whatever else a router may send."""

from __future__ import annotations

import ipaddress
import random

import pytest

from aitorrent_nat.mapping.datagrams import (
    OtherVersion,
    PmpMapped,
    pcp_answer,
    pcp_request,
    pmp_address,
    pmp_address_request,
    pmp_answer,
    pmp_request,
)
from aitorrent_nat.mapping.gateway import parse_routes, parse_routes6
from aitorrent_nat.mapping.routers import Lease, Want
from aitorrentd.api import Denied, ProtocolError

NONCE = bytes(range(12))
WANT = Want("tcp", 8468)
MAPPED4 = bytes(10) + b"\xff\xff"
# RFC 6887, figures 3 and 11: lifetime 3600, epoch 7, port 9000 at 203.0.113.5.
PCP = (
    bytes((2, 0x81, 0, 0))
    + (3600).to_bytes(4)
    + (7).to_bytes(4)
    + bytes(12)
    + NONCE
    + bytes((6, 0, 0, 0))
    + (8468).to_bytes(2)
    + (9000).to_bytes(2)
    + MAPPED4
    + bytes((203, 0, 113, 5))
)
# RFC 6886, sections 3.2 and 3.3.
PMP = bytes((0, 130, 0, 0)) + (7).to_bytes(4) + (8468).to_bytes(2) + (9000).to_bytes(2)
PMP += (3600).to_bytes(4)
ADDRESS = bytes((0, 128, 0, 0)) + (7).to_bytes(4) + bytes((203, 0, 113, 5))


def test_ip6_port_is_asked_for_at_the_address_of_the_machine() -> None:
    own = "2a01:db8:1::2"
    packed = ipaddress.IPv6Address(own).packed
    request = pcp_request(WANT, own, NONCE, 8468, 3600)
    assert request[8:24] == packed and request[-16:] == bytes(16)
    answer = PCP[:42] + (8468).to_bytes(2) + packed
    assert pcp_answer(answer, WANT, NONCE, is_ip6=True) == Lease(WANT, own, 8468, 3600)
    with pytest.raises(ProtocolError, match="without an IPv4 address"):
        pcp_answer(answer, WANT, NONCE)


def test_default_route_of_ip6_is_the_one_with_the_lowest_metric() -> None:
    zeros, link = "0" * 32, "fe80" + "0" * 27 + "1"
    unreachable = f"{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo"
    own = f"2a010db8{'0' * 24} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001       e0"
    far = f"{zeros} 00 {zeros} 00 2a010db8{'0' * 23}1 00000800 00000001 00000000 00000003      wl0"
    near = f"{zeros} 00 {zeros} 00 {link} 00000400 00000002 00000000 00450003       e0"
    assert parse_routes6("\n".join([unreachable, own, far, near])) == "fe80::1%e0"
    assert parse_routes6("\n".join([far, unreachable])) == "2a01:db8::1"
    assert parse_routes6(f"{unreachable}\nshort") == ""


def test_requests_are_as_in_the_standards() -> None:
    request = pcp_request(WANT, "192.168.1.2", NONCE, 9000, 3600)
    head = bytes((2, 1, 0, 0)) + (3600).to_bytes(4) + MAPPED4 + bytes((192, 168, 1, 2))
    ports = (8468).to_bytes(2) + (9000).to_bytes(2)
    assert request == head + NONCE + bytes((6, 0, 0, 0)) + ports + MAPPED4 + bytes(4)
    assert pmp_request(WANT, 9000, 3600) == bytes((0, 2, 0, 0)) + ports + (3600).to_bytes(4)
    assert pmp_request(Want("udp", 1), 0, 0)[1] == 1
    assert pmp_address_request() == b"\0\0"


def test_answers_are_read() -> None:
    assert len(PCP) == 60
    assert pcp_answer(PCP, WANT, NONCE) == Lease(WANT, "203.0.113.5", 9000, 3600)
    assert pmp_answer(PMP, WANT) == PmpMapped(9000, 3600)
    assert pmp_address(ADDRESS) == "203.0.113.5"
    assert pmp_address(ADDRESS[:8] + bytes(4)) == ""


def test_answers_to_other_requests_are_passed_over() -> None:
    assert pcp_answer(PCP, WANT, bytes(12)) is None, "another's nonce"
    assert pcp_answer(PCP, Want("udp", 8468), NONCE) is None
    assert pcp_answer(PCP, Want("tcp", 1), NONCE) is None
    assert pcp_answer(bytes((2, 1)) + PCP[2:], WANT, NONCE) is None, "a request"
    assert pmp_answer(PMP, Want("udp", 8468)) is None
    assert pmp_answer(PMP, Want("tcp", 1)) is None
    assert pmp_address(PMP) is None


def test_refusals_are_told_in_words() -> None:
    with pytest.raises(Denied, match="it is not allowed"):
        pcp_answer(PCP[:3] + bytes((2,)) + PCP[4:], WANT, NONCE)
    with pytest.raises(Denied, match="another NAT is between"):
        pcp_answer(PCP[:3] + bytes((12,)) + PCP[4:], WANT, NONCE)
    with pytest.raises(Denied, match="error 99"):
        pmp_answer(PMP[:3] + bytes((99,)) + PMP[4:], WANT)
    with pytest.raises(OtherVersion, match="NAT-PMP"):
        pcp_answer(bytes((0, 0x81, 0, 1, 0, 0, 0, 7)), WANT, NONCE)


def test_damage_is_never_more_than_a_protocol_error() -> None:
    draw = random.Random(1)

    def read(data: bytes) -> None:
        for reader in (
            lambda: pcp_answer(data, WANT, NONCE),
            lambda: pmp_answer(data, WANT),
            lambda: pmp_address(data),
        ):
            try:
                reader()
            except (ProtocolError, Denied, OtherVersion):
                continue

    for whole in (PCP, PMP, ADDRESS):
        for size in range(len(whole)):
            read(whole[:size])
        for _ in range(2000):
            damaged = bytearray(whole)
            for _ in range(draw.randrange(1, 6)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            read(bytes(damaged))
    with pytest.raises(ProtocolError, match="without an IPv4 address"):
        pcp_answer(PCP[:-16] + bytes(16), WANT, NONCE)


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0
"""


def test_gateway_is_that_of_the_default_route_with_the_lowest_metric() -> None:
    assert parse_routes(ROUTES) == "192.168.2.1"
    assert parse_routes(ROUTES.splitlines()[0]) == ""
    assert parse_routes("") == ""
