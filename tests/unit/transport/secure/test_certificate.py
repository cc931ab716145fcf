"""Certificates of X25519 keys and their rotation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aitorrent_transport.secure.certificate import (
    BACKDATE_S,
    CLOCK_SKEW_S,
    LIFETIME_S,
    MAX_LIFETIME_S,
    ROTATE_S,
    Certificate,
    Credentials,
    network_key,
)
from aitorrentd.api import ProtocolError
from tests.support.transport.link_peers import KeySigner, make_credentials

NOW = 1_800_000_000
SIGNER = KeySigner()


def _issued(not_before: int = NOW, expires: int = NOW + 3600) -> Certificate:
    return Certificate.issue(SIGNER, "net", b"k" * 32, not_before=not_before, expires=expires)


def test_certificate_is_good_between_its_dates_and_the_tolerated_skew() -> None:
    certificate = _issued()
    for now in (NOW - CLOCK_SKEW_S, NOW, NOW + 3600, NOW + 3600 + CLOCK_SKEW_S):
        certificate.check(SIGNER.public_key, "net", now)


def test_expired_certificate_is_refused() -> None:
    with pytest.raises(ProtocolError, match="expired 121 s ago; compare the clocks"):
        _issued().check(SIGNER.public_key, "net", NOW + 3600 + 121)


def test_certificate_of_the_future_is_refused() -> None:
    with pytest.raises(ProtocolError, match="becomes valid in 121 s; compare the clocks"):
        _issued().check(SIGNER.public_key, "net", NOW - 121)


def test_certificate_for_more_than_thirty_days_is_refused() -> None:
    with pytest.raises(ProtocolError, match="more than 30 days"):
        _issued(expires=NOW + MAX_LIFETIME_S + 1).check(SIGNER.public_key, "net", NOW)


def test_certificate_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ProtocolError, match="invalid dates"):
        _issued(expires=NOW - 1).check(SIGNER.public_key, "net", NOW)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", b"x" * 32),
        ("not_before", NOW - 1),
        ("expires", NOW + 3601),
        ("signature", bytes(64)),
        ("signature", b""),
        ("key", b"k" * 31),
    ],
)
def test_changed_certificate_is_refused(field: str, value: object) -> None:
    changed = replace(_issued(), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="not signed by its identity"):
        changed.check(SIGNER.public_key, "net", NOW)


def test_certificate_of_another_network_or_identity_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not signed"):
        _issued().check(SIGNER.public_key, "other", NOW)
    with pytest.raises(ProtocolError, match="not signed"):
        _issued().check(KeySigner().public_key, "net", NOW)


def test_key_is_kept_for_a_day_and_then_replaced() -> None:
    now = float(NOW)
    credentials = make_credentials(clock=lambda: now)
    first = credentials.static_key()
    now += ROTATE_S - 1
    assert credentials.static_key() is first
    now += 1
    second = credentials.static_key()
    assert second.certificate.key != first.certificate.key
    now -= 2 * CLOCK_SKEW_S
    assert credentials.static_key() is not second, "a clock set back also makes a new key"


def test_own_certificate_suits_peers_whose_clocks_are_ten_minutes_wrong() -> None:
    credentials = make_credentials("net", clock=lambda: float(NOW))
    certificate = credentials.static_key().certificate
    for skew in (-600, 600):
        certificate.check(credentials.signer.public_key, "net", NOW + skew)
    assert certificate.not_before == NOW - BACKDATE_S
    assert certificate.expires == NOW + LIFETIME_S
    assert LIFETIME_S + BACKDATE_S <= MAX_LIFETIME_S


@pytest.mark.parametrize(
    ("network", "agent", "psk", "problem"),
    [
        ("", "a", None, "network id"),
        ("n" * 129, "a", None, "network id"),
        ("n", "a" * 65, None, "agent"),
        ("n", "a\n", None, "agent"),
        ("n", "a", b"short", "pre-shared key"),
    ],
)
def test_impossible_credentials_are_refused(
    network: str, agent: str, psk: bytes | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Credentials(SIGNER, network, agent, psk)


def test_credentials_do_not_show_their_secrets() -> None:
    assert "s3cr3t" not in repr(make_credentials(psk=b"s3cr3t" * 5 + b"xx"))


def test_key_of_a_network_differs_by_network_secret_and_purpose() -> None:
    keys = {
        network_key("main", None, "dht"),
        network_key("test", None, "dht"),
        network_key("main", b"s" * 32, "dht"),
        network_key("main", None, "other"),
    }
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    assert network_key("main", b"s" * 32, "dht") in keys
