"""Which addresses share their limits."""

from __future__ import annotations

import pytest

from aitorrent_transport.protection.subnets import is_public, shares


@pytest.mark.parametrize(
    ("address", "host", "net"),
    [
        ("127.0.0.1", "", ""),
        ("::1", "", ""),
        ("", "", ""),
        ("203.0.113.77", "203.0.113.77/32", "203.0.113.0/24"),
        ("::ffff:203.0.113.77", "203.0.113.77/32", "203.0.113.0/24"),
        ("2001:db8:1:2ff::9", "2001:db8:1:2ff::/64", "2001:db8:1:200::/56"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/56"),
    ],
)
def test_shares_follow_the_prefix_that_one_party_controls(
    address: str, host: str, net: str
) -> None:
    assert shares(address) == (host, net)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.4.4", True),
        ("::ffff:8.8.4.4", True),
        ("2a00:1450::1", True),
        ("192.168.1.9", False),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("127.0.0.1", False),
        ("", False),
        ("unix", False),
    ],
)
def test_only_addresses_that_strangers_can_have_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
