"""The verdict in a word: what evidence leads to which."""

from __future__ import annotations

import pytest

from aitorrent_nat.reach.word import Evidence, verdict
from aitorrent_nat.stun.behaviour import UNKNOWN, Behaviour, Filtering, Mapping
from aitorrentd.api import Reach

EI = Mapping.ENDPOINT_INDEPENDENT
CONE = Behaviour(EI, Filtering.ADDRESS_AND_PORT_DEPENDENT, "203.0.113.7", keeps_ports=True)
SYMMETRIC = Behaviour(Mapping.ADDRESS_AND_PORT_DEPENDENT, external="203.0.113.7")
NO_NAT = Behaviour(Mapping.NONE, external="203.0.113.7")


@pytest.mark.parametrize(
    ("evidence", "reach", "reason"),
    [
        (Evidence(), Reach.OFFLINE, "no peer is connected"),
        (
            Evidence(peers=1, proven_by="…abc", proven_at=("203.0.113.7", 8468), behaviour=CONE),
            Reach.PUBLIC,
            "…abc dialled 203.0.113.7:8468",
        ),
        (
            Evidence(peers=3, outside=3, behaviour=CONE),
            Reach.CONE,
            "others see 203.0.113.7 at one port for all, and only replies get in",
        ),
        (
            Evidence(peers=3, outside=3, behaviour=SYMMETRIC, relays=["…r1", "…r2"]),
            Reach.SYMMETRIC,
            "others see 203.0.113.7 at a port for each of them;"
            " reached through the relays …r1, …r2",
        ),
        (
            Evidence(peers=1, outside=1, relays=["…r1"]),
            Reach.RELAYED,
            "reached through the relay …r1 only",
        ),
        (
            Evidence(peers=3, outside=3, behaviour=NO_NAT, failed=2, ports=[8468]),
            Reach.CONE,
            "no NAT, but a firewall keeps peers out of port 8468",
        ),
        (
            Evidence(peers=3, outside=3, behaviour=NO_NAT),
            Reach.UNKNOWN,
            "no NAT; no peer outside has tried to dial this node yet",
        ),
        (
            Evidence(peers=2),
            Reach.UNKNOWN,
            "all peers are in this node's own network",
        ),
        (
            Evidence(peers=2, outside=2, failed=1),
            Reach.UNKNOWN,
            "too few peers outside this network: 2; it takes 3 in 2 networks;"
            " 1 could not dial this node",
        ),
        (Evidence(behaviour=CONE), Reach.OFFLINE, "no peer is connected"),
    ],
)
def test_word_follows_from_evidence(evidence: Evidence, reach: Reach, reason: str) -> None:
    assert verdict(evidence) == (reach, reason)


def test_nothing_is_known_at_first() -> None:
    assert not UNKNOWN.is_known
    assert verdict(Evidence(peers=1, outside=1))[0] is Reach.UNKNOWN
