"""What `nat relays` shows."""

from __future__ import annotations

from typing import Any

from aitorrent_nat import cli_relay
from tests.support.transport.transport_nodes import Identity

RELAY, CLIENT, DIALER = (Identity(name).peer_id for name in ("relay", "client", "dialer"))
CIRCUIT = f"/ip4/203.0.113.1/tcp/8468/p2p/{RELAY}/p2p-circuit/p2p/{CLIENT}"
NOTHING: dict[str, Any] = {
    "needed": False,
    "relaying": "plugins.nat.relay is false",
    "held": [],
    "problems": {},
    "given": [],
    "circuits": [],
    "passed": 0,
}
HELD: dict[str, Any] = {
    "relay": RELAY,
    "addresses": [CIRCUIT],
    "live": True,
    "expires_s": 1800.0,
    "rate": 2 * 2**20,
    "bytes_per_hour": 256 * 2**20,
    "circuits": 1,
}


def shown(**changes: Any) -> str:
    return cli_relay._render({**NOTHING, **changes})


def test_a_node_that_needs_no_relay_says_so() -> None:
    assert shown() == (
        "This node needs no relay.\n\nThis node relays for nobody: plugins.nat.relay is false."
    )


def test_why_there_is_no_relay_yet() -> None:
    text = shown(needed=True, problems={RELAY: "128 reservations,\x1b[2J its limit"})
    assert text.startswith(f"No relay yet.\n  …{RELAY[-8:]}: 128 reservations,")
    assert "\x1b" not in text


def test_relays_of_this_node_and_their_limits() -> None:
    text = shown(held=[HELD])
    assert "HELD AT" in text
    assert f"…{RELAY[-8:]}" in text
    assert "2.0 MiB/s, 256.0 MiB per hour" in text
    assert CIRCUIT in text
    asked = {**HELD, "live": False, "addresses": [], "expires_s": None, "rate": None}
    assert "asked" in shown(held=[asked])


def test_what_a_relay_does_for_others() -> None:
    assert "none has asked yet" in shown(relaying="")
    given = {
        "client": CLIENT,
        "host": "198.51.100.7",
        "connected": True,
        "expires_s": 600.0,
        "circuits": 1,
    }
    circuit = {
        "dialer": DIALER,
        "target": CLIENT,
        "passed": 3 * 2**20,
        "age_s": 5.0,
        "pair_left": 253 * 2**20,
    }
    text = shown(relaying="", given=[given], circuits=[circuit])
    for part in ("GIVEN TO", "198.51.100.7", f"…{DIALER[-8:]}", "3.0 MiB", "253.0 MiB"):
        assert part in text
