"""Why a peer is connected the way it is, in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aitorrent_transport.routes.attempts import MAX_ATTEMPTS, AttemptLog
from aitorrent_transport.routes.why import explained, in_use
from aitorrentd.api import Attempt, PeerId, PeerView

PEER = PeerId("12D3KooWaaaaaaaa")
DIRECT = "/ip4/203.0.113.5/tcp/8468"
CIRCUIT = "/ip4/192.0.2.9/tcp/7/p2p/R/p2p-circuit"
VIEW = PeerView(
    id=PEER,
    address=DIRECT,
    outbound=True,
    connected_s=1.0,
    rtt_s=None,
    streams=0,
    bytes_in=0,
    bytes_out=0,
    agent="test/1",
)
RELAYED = replace(VIEW, address=CIRCUIT, route="relay")
REFUSED = Attempt(1.0, "direct", DIRECT, False, "connection refused", 0.1)
UNPUNCHED = Attempt(2.0, "tcp-punch", "", False, "no answer in time", 5.0)
REACHED = Attempt(3.0, "relay", CIRCUIT, True, "connected", 0.2)


@pytest.mark.parametrize(
    ("view", "is_relayed", "attempts", "text"),
    [
        (None, False, [], "not connected, and not tried in the last 24 hours"),
        (
            None,
            False,
            [UNPUNCHED, REFUSED],
            "not connected; 2 attempts failed (direct, tcp-punch), "
            f"the last by direct at {DIRECT}: connection refused",
        ),
        (None, False, [REFUSED, REACHED], f"not connected now; last reached by relay at {CIRCUIT}"),
        (VIEW, False, [REFUSED], f"connected (direct) at {DIRECT}"),
        (
            replace(VIEW, outbound=False),
            False,
            [],
            f"connected (direct) at {DIRECT}, which the peer opened",
        ),
        (RELAYED, True, [], f"connected (relay) at {CIRCUIT}; no other way was tried yet"),
        (
            RELAYED,
            True,
            [REFUSED, UNPUNCHED, REACHED],
            f"connected (relay) at {CIRCUIT}; 2 attempts failed (direct, tcp-punch), "
            "the last by tcp-punch: no answer in time",
        ),
    ],
)
def test_explanation_says_what_holds_and_why(
    view: PeerView | None, is_relayed: bool, attempts: list[Attempt], text: str
) -> None:
    assert explained(view, is_relayed, attempts) == text


def test_attempt_in_use_is_the_last_success_at_the_address_in_use() -> None:
    again = replace(REACHED, at=9.0)
    assert in_use(RELAYED, [REACHED, again, REFUSED]) is again
    assert in_use(VIEW, [REACHED, REFUSED]) is None
    assert in_use(None, [REACHED]) is None


def test_attempts_of_a_day_are_kept_and_only_the_last_ones() -> None:
    now = 100_000.0
    log = AttemptLog(lambda: now)
    assert log.of(PEER) == []
    assert log.peers() == []
    for at in range(MAX_ATTEMPTS + 5):
        log.note(PEER, replace(REFUSED, at=20_000.0 + at))
    assert [attempt.at for attempt in log.of(PEER)][:1] == [20_005.0]
    assert log.peers() == [PEER]
    now += 86_400
    assert log.of(PEER) == []


def test_attempts_are_in_the_order_in_which_they_began() -> None:
    log = AttemptLog(lambda: 10.0)
    for attempt in (REACHED, REFUSED, UNPUNCHED):
        log.note(PEER, attempt)
    assert log.of(PEER) == [REFUSED, UNPUNCHED, REACHED]
