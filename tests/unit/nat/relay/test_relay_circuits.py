"""Circuits of a relay: tokens, limits, ends."""

from __future__ import annotations

import pytest

from aitorrent_nat.relay import circuits as module
from aitorrent_nat.relay.circuits import CLAIM_S, Circuits, End
from aitorrent_nat.relay.messages import TOKEN_BYTES
from aitorrentd.api import Busy, Conflict, PeerId

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


def test_both_ends_claim_with_tokens_of_their_own() -> None:
    circuits: Circuits[str] = Circuits(16)
    circuit = circuits.open(A, B, 0.0)
    assert len(set(circuit.tokens.values())) == 2
    assert all(len(token) == TOKEN_BYTES for token in circuit.tokens.values())
    assert circuits.claim(circuit.tokens[End.TARGET], "leg b", 1.0) == (circuit, End.TARGET)
    assert not circuit.is_joined
    assert circuits.claim(circuit.tokens[End.DIALER], "leg a", 2.0) == (circuit, End.DIALER)
    assert circuit.is_joined
    assert circuit.legs == {End.DIALER: "leg a", End.TARGET: "leg b"}
    assert (circuit.peer(End.DIALER), circuit.peer(End.DIALER.other)) == (A, B)


def test_a_token_works_once_and_for_ten_seconds() -> None:
    circuits: Circuits[str] = Circuits(16)
    circuit = circuits.open(A, B, 0.0)
    token = circuit.tokens[End.DIALER]
    assert circuits.claim(token, "first", CLAIM_S - 0.1) is not None
    assert circuits.claim(token, "second", CLAIM_S - 0.1) is None
    assert circuits.claim(circuit.tokens[End.TARGET], "late", CLAIM_S) is None
    assert circuits.is_overdue(circuit, CLAIM_S)
    assert circuits.claim(bytes(TOKEN_BYTES), "guessed", 0.0) is None


def test_tokens_end_with_their_circuit() -> None:
    circuits: Circuits[str] = Circuits(16)
    circuit = circuits.open(A, B, 0.0)
    assert circuits.end(circuit)
    assert not circuits.end(circuit)
    assert circuits.claim(circuit.tokens[End.DIALER], "late", 1.0) is None
    assert circuits.get(circuit.number) is None
    assert len(circuits) == 0


def test_each_node_has_a_limited_number_in_whichever_role() -> None:
    circuits: Circuits[str] = Circuits(2)
    first = circuits.open(A, B, 0.0)
    circuits.open(C, A, 0.0)
    with pytest.raises(Busy, match="you have 2 circuits"):
        circuits.open(A, PeerId("d"), 0.0)
    with pytest.raises(Busy, match="the peer has 2 circuits"):
        circuits.open(PeerId("d"), A, 0.0)
    assert circuits.count(PeerId("d")) == 0
    circuits.end(first)
    circuits.open(PeerId("d"), A, 0.0)


def test_the_relay_has_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CIRCUITS", 3)
    circuits: Circuits[str] = Circuits(16)
    for n in range(3):
        circuits.open(PeerId(f"x{n}"), PeerId(f"y{n}"), 0.0)
    with pytest.raises(Busy, match="3 circuits, its limit"):
        circuits.open(A, B, 0.0)


def test_a_node_has_no_circuit_to_itself() -> None:
    with pytest.raises(Conflict, match="two nodes"):
        Circuits[str](16).open(A, A, 0.0)
