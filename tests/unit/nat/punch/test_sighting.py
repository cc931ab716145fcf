"""Sighting of where a node connects from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aitorrent_nat.punch.sighting import (
    MAX_BYTES,
    VALID_S,
    Sighting,
    attest,
    decode,
    encode,
)
from aitorrentd.api import PeerId, decode_frame
from aitorrentd.runtime.identity import Identity

NOW = 1_800_000_000.0


WITNESS, SUBJECT, STRANGER = (Identity(bytes([seed]) * 32) for seed in (1, 2, 3))


def said(subject: PeerId = SUBJECT.peer_id, host: str = "11.1.0.2") -> Sighting:
    return attest(WITNESS, "main", subject, host, NOW)


def test_a_sighting_survives_its_encoding_and_is_true() -> None:
    raw = encode(said())
    assert len(raw) <= MAX_BYTES
    read = decode(decode_frame(raw[4:]))
    assert read == said()
    assert read.is_true("main", SUBJECT.peer_id, NOW + 60)


def test_what_the_witness_did_not_sign_is_not_true() -> None:
    true = said()
    assert not true.is_true("main", STRANGER.peer_id, NOW)
    assert not true.is_true("other", SUBJECT.peer_id, NOW)
    for forged in (
        replace(true, host="11.9.0.9"),
        replace(true, witness=STRANGER.peer_id),
        replace(true, at_unix_s=int(NOW) + 1),
        replace(true, signature=bytes(64)),
    ):
        assert not forged.is_true("main", SUBJECT.peer_id, NOW)


def test_a_sighting_expires_and_tolerates_clocks() -> None:
    assert said().is_true("main", SUBJECT.peer_id, NOW - 600)
    assert not said().is_true("main", SUBJECT.peer_id, NOW + VALID_S + 1)
    assert not said().is_true("main", SUBJECT.peer_id, NOW - VALID_S - 1)


def test_nobody_attests_to_what_is_no_host() -> None:
    with pytest.raises(ValueError, match="unicast"):
        said(host="224.0.0.1")
