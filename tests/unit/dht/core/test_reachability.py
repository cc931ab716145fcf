"""Whether a node is to be asked: the role that follows from evidence."""

from __future__ import annotations

import pytest

from aitorrent_dht.core.reachability import (
    EVIDENCE_S,
    MAPPING_S,
    TRIAL_EVERY_S,
    TRIAL_S,
    Mode,
    Reachability,
)


def behind_nat(now: float = 0.0, mode: Mode = "auto") -> Reachability:
    it = Reachability(mode, now)
    it.is_own(["192.168.1.5", "127.0.0.1"])
    for teller in ("8.8.8.8", "9.9.9.9", "7.7.7.7"):
        it.observed(teller, "5.5.5.5")
    return it


def test_node_at_its_own_address_is_a_server() -> None:
    it = Reachability("auto", 0.0)
    it.is_own(["5.5.5.5"])
    for teller in ("8.8.8.8", "9.9.9.9", "7.7.7.7"):
        it.observed(teller, "5.5.5.5")
    assert not it.is_client(TRIAL_S + 1)


def test_node_behind_a_nat_becomes_a_client_after_a_trial_without_strangers() -> None:
    it = behind_nat()
    assert not it.is_client(1.0)
    assert it.is_client(TRIAL_S + 1)
    assert not it.is_client(TRIAL_EVERY_S + 1)  # tries again
    assert it.is_client(TRIAL_EVERY_S + 1 + TRIAL_S)


def test_node_whose_nat_keeps_strangers_out_is_a_client_at_once() -> None:
    it = behind_nat()
    it.is_closed = True
    assert it.is_client(1.0)
    assert it.is_client(TRIAL_EVERY_S + 1)  # there is nothing to try
    it.asked("6.6.6.6", 2.0)
    assert not it.is_client(3.0)
    it.is_closed = False
    assert it.is_client(2.0 + EVIDENCE_S + TRIAL_S)


def test_request_of_a_stranger_makes_it_a_server_for_an_hour() -> None:
    it = behind_nat()
    it.asked("6.6.6.6", TRIAL_S)
    assert not it.is_client(TRIAL_S + 1)
    assert it.is_client(TRIAL_S + EVIDENCE_S + 1)


def test_request_through_a_mapping_that_this_node_opened_proves_nothing() -> None:
    it = behind_nat()
    it.sent("6.6.6.6", 10.0)
    it.asked("6.6.6.6", 10.0 + MAPPING_S)
    assert it.asked_at is None
    it.asked("6.6.6.6", 11.0 + MAPPING_S)
    assert it.asked_at is not None


def test_one_network_cannot_talk_a_node_into_being_a_client() -> None:
    it = Reachability("auto", 0.0)
    it.is_own(["5.5.5.5"])
    for i in range(200):
        it.observed(f"8.8.8.{i}", "6.6.6.6")
    assert it.seen_at() == ""
    it.observed("9.9.9.9", "5.5.5.5")
    it.observed("7.7.7.7", "5.5.5.5")
    assert it.seen_at() == "5.5.5.5"
    assert not it.is_client(TRIAL_S + 1)


@pytest.mark.parametrize(("mode", "is_client"), [("server", False), ("client", True)])
def test_configured_role_is_kept(mode: Mode, is_client: bool) -> None:
    it = behind_nat(mode=mode)
    it.asked("6.6.6.6", 5.0)
    assert it.is_client(1.0) is it.is_client(TRIAL_S + 2) is is_client
