"""The last resort of two symmetric NATs: a TURN server that both ends use (the real coturn)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aitorrent_nat.punch.messages import Result
from aitorrent_nat.punch.surroundings import TurnAccess
from tests.support.nat.coturn import PROGRAM, REASON, turn_server
from tests.support.nat.lab import Host, Lab
from tests.support.nat.namespaces import CAN_MAKE
from tests.support.nat.sessions import Pair, pair

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not CAN_MAKE or not PROGRAM, reason=REASON),
]


def access(server: Host, password: str = "secret") -> TurnAccess:
    return TurnAccess((server.address, 3478), "node", password)


def transfer(both: Pair, count: int) -> None:
    [sender] = both.arounds[0].port.secured.values()
    [receiver] = both.arounds[1].port.secured.values()
    receiver.wanted = count
    both.ends[0].run(sender.send(count))
    both.ends[1].run(asyncio.wait_for(receiver.complete.wait(), 30))
    assert receiver.received == count


def test_two_symmetric_nats_connect_through_a_common_server(nat_lab: Lab, tmp_path: Path) -> None:
    server = nat_lab.public()
    with (
        turn_server(tmp_path, server, "node", "secret"),
        pair(nat_lab, nat_lab.place("symmetric"), nat_lab.place("symmetric")) as both,
    ):
        for around in both.arounds:
            around.turn_access = access(server)
        assert both.run() == (Result(True, "udp-punch"), Result(True, "udp-punch"))
        for attempt in both.outcome("udp-punch"):
            assert attempt.outcome == "connected (turn)"
        transfer(both, 2_000_000)


def test_a_server_that_only_one_end_uses_is_not_tried(nat_lab: Lab, tmp_path: Path) -> None:
    """The other end would have to send to an address that only the peer names."""
    server = nat_lab.public()
    with (
        turn_server(tmp_path, server, "node", "secret"),
        pair(nat_lab, nat_lab.place("symmetric"), nat_lab.place("symmetric")) as both,
    ):
        both.arounds[0].turn_access = access(server)
        assert not any(result.ok for result in both.run())


def test_a_wrong_password_costs_no_other_way(nat_lab: Lab, tmp_path: Path) -> None:
    server = nat_lab.public()
    with (
        turn_server(tmp_path, server, "node", "secret"),
        pair(nat_lab, nat_lab.place("portrestricted"), nat_lab.place("portrestricted")) as both,
    ):
        for around in both.arounds:
            around.turn_access = access(server, "wrong")
        assert {result.said for result in both.run()} == {"tcp-punch"}
