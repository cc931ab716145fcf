"""Addresses of this machine, from what the kernel lists."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aitorrent_transport.peers.interfaces import (
    by_usefulness,
    inner_bridges,
    own_addresses,
    parse_fib_trie,
    parse_if_inet6,
)
from tests.support.transport.namespaces import CAN_MAKE, REASON, ip, machines, run_in

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 10.5.0.0/24 2 0 2
           |-- 10.5.0.1
              /32 host LOCAL
           |-- 10.5.0.200
              /32 host LOCAL
"""

IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 02 40 00 80     eth0
2a0500000000000000000000000000aa 02 40 00 01     eth0
2a0500000000000000000000000000bb 02 40 00 80     eth0
2a0500000000000000000000000000cc 02 40 00 c0     eth0
2a0500000000000000000000000000dd 02 40 00 88     eth0
fe80000000000000000000000000abcd 02 40 20 80     eth0
fd000005000000000000000000000001 03 40 00 80     eth1
"""


def test_every_local_ipv4_address_is_found_also_secondary_ones() -> None:
    assert parse_fib_trie(FIB_TRIE) == ["127.0.0.1", "10.5.0.1", "10.5.0.200"]


def test_ipv6_addresses_that_others_cannot_use_are_left_out_and_passing_ones_are_last() -> None:
    found = parse_if_inet6(IF_INET6)
    assert found[-1] == "2a05::aa", "a temporary address changes within a day"
    assert not {"2a05::cc", "2a05::dd", "fe80::abcd"} & set(found)
    assert by_usefulness(found)[:2] == ["2a05::bb", "2a05::aa"]
    assert by_usefulness(found)[-1] == "::1"


def test_global_addresses_come_first_and_loopback_last() -> None:
    many = ["127.0.0.1", "169.254.3.4", "100.64.0.9", "10.5.0.1", "192.168.1.7", "81.2.69.142"]
    assert by_usefulness([*many, "10.5.0.1"]) == [
        "81.2.69.142",
        "10.5.0.1",
        "192.168.1.7",
        "100.64.0.9",
        "169.254.3.4",
        "127.0.0.1",
    ]


def test_this_machine_has_loopback_last() -> None:
    assert own_addresses(4)[-1] == "127.0.0.1"


def test_bridge_leads_to_others_only_by_a_network_card(tmp_path: Path) -> None:
    for path in (
        "eth0/device",
        "eth0.7/lower_eth0",
        "docker0/bridge",
        "docker0/lower_veth1",
        "veth1",
        "virbr0/bridge",
        "br0/bridge",
        "br0/lower_eth0",
        "br7/bridge",
        "br7/lower_veth1",
        "br7/lower_eth0.7",
    ):
        (tmp_path / path).mkdir(parents=True)
    assert sorted(inner_bridges(tmp_path)) == ["docker0", "virbr0"]
    assert inner_bridges(tmp_path / "missing") == []


def test_inner_addresses_are_told_last_but_for_loopback() -> None:
    many = ["10.1.0.1", "127.0.0.1", "2001:470::1", "169.254.3.4", "192.168.1.7"]
    assert by_usefulness(many, {"10.1.0.1", "127.0.0.1"}) == [
        "2001:470::1",
        "192.168.1.7",
        "169.254.3.4",
        "10.1.0.1",
        "127.0.0.1",
    ]


TELL = """
from types import SimpleNamespace
from aitorrent_transport.peers.own import OwnAddresses
from tests.support.transport.transport_nodes import Identity

bound = SimpleNamespace(bound=[("0.0.0.0", 8468), ("::", 8468)])
own = OwnAddresses(bound, (), Identity("one").peer_id, lambda: 0.0)
print(*[address.host for address in own.told()])
"""


@pytest.mark.root
@pytest.mark.skipif(not CAN_MAKE, reason=REASON)
async def test_address_of_a_container_bridge_is_told_after_those_of_the_network() -> None:
    with machines(1) as (one,):
        ip("-n", one, "link", "set", "lo", "up")
        ip("-n", one, "link", "add", "docker0", "type", "bridge")
        ip("-n", one, "link", "set", "docker0", "up")
        ip("-n", one, "addr", "add", "10.1.0.1/16", "dev", "docker0")
        ip("-n", one, "addr", "add", "fd00:1::1/64", "dev", "docker0", "nodad")
        process = await run_in(one, "-c", TELL)
        output, _ = await asyncio.wait_for(process.communicate(), 30)
    told = output.decode().split()
    assert told[0] == "10.77.0.1"
    assert told.index("10.1.0.1") < told.index("127.0.0.1")
    assert not {"fd00:1::1"} & set(told) or told.index("fd00:1::1") > told.index("10.77.0.1")
