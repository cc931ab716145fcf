"""Addresses of this machine, from what the kernel lists."""

from __future__ import annotations

from aitorrent_transport.peers.interfaces import (
    by_usefulness,
    own_addresses,
    parse_fib_trie,
    parse_if_inet6,
)

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
