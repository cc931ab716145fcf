"""What `discovery stats`, `discovery peers`, `status` and `doctor` show."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aitorrent_discovery import cli, health
from aitorrent_discovery.gossip.book import Outcome
from aitorrent_discovery.records.codec import Refusal
from aitorrent_discovery.service import DiscoveryService
from tests.support.discovery.records import gossip, peer

PLUGIN = Path(cli.__file__).parent


def service(**changes: Any) -> DiscoveryService:
    """A service as far as health looks at it."""
    quiet: dict[str, Any] = {
        "local": SimpleNamespace(problem="", state="browsing; networks: 10.0.0.0/24"),
        "saved": SimpleNamespace(problem=""),
        "seeds": SimpleNamespace(problems={}),
        "transport": SimpleNamespace(peers=list),
        "gossip": gossip(),
        "candidates": SimpleNamespace(count=lambda: {"lan": 0, "dialled": 0, "heard": 0}),
        "config": SimpleNamespace(mdns=True),
    }
    return cast(DiscoveryService, SimpleNamespace(**{**quiet, **changes}))


def codes(found: DiscoveryService) -> list[str]:
    return [warning.code for warning in health.warnings(found)]


def test_healthy_node_has_no_warning() -> None:
    assert codes(service()) == []


def test_each_problem_is_a_warning_that_says_it_is_retried() -> None:
    found = service(
        local=SimpleNamespace(problem="no interface with multicast is up", state=""),
        saved=SimpleNamespace(problem="the disk is full"),
        seeds=SimpleNamespace(problems={"seeds.example:8468": "does not resolve"}),
    )
    assert codes(found) == ["multicast", "peer_store", "seed"]
    assert all("retrying" in warning.text for warning in health.warnings(found))


@pytest.mark.parametrize(("ahead_s", "way"), [(600.0, "600 s behind"), (-600.0, "600 s ahead of")])
def test_clock_that_differs_from_most_peers_is_a_warning(ahead_s: float, way: str) -> None:
    talking = gossip()
    for name in "abc":
        talking.clocks.note(peer(name), ahead_s)
    (warning,) = health.warnings(service(gossip=talking))
    assert warning.code == "clock"
    assert way in warning.text


def test_doctor_says_what_to_do_without_peers_and_candidates() -> None:
    alone = health.check_peers(service())
    assert (alone.status, "bootstrap" in alone.remedy) == ("warn", True)
    knowing = SimpleNamespace(count=lambda: {"lan": 0, "dialled": 2, "heard": 3})
    assert "2 dialled, 3 heard" in health.check_peers(service(candidates=knowing)).text
    views = [SimpleNamespace(outbound=True), SimpleNamespace(outbound=False)]
    connected = health.check_peers(service(transport=SimpleNamespace(peers=lambda: views)))
    assert connected.text == "2 connected, 1 of them dialled by this node"
    assert health.check_peers(None).status == "fail"


def test_doctor_says_whether_multicast_works() -> None:
    assert health.check_multicast(service()).status == "ok"
    off = health.check_multicast(service(config=SimpleNamespace(mdns=False)))
    assert off.text == "off: plugins.discovery.mdns is false"
    broken = SimpleNamespace(problem="multicast DNS does not work here: EPERM", state="")
    assert "5353" in health.check_multicast(service(local=broken)).remedy


def test_stats_are_shown_in_words() -> None:
    reply = {
        "outbound": 3,
        "outbound_wanted": 8,
        "candidates": {"lan": 1, "dialled": 2, "heard": 40},
        "records": 42,
        "sequence": 1,
        "addresses": ["/ip4/192.168.1.5/tcp/8468"],
        "gossip": True,
        "counts": {"exchanges": 7, "answered": 5, "failed_dials": 2},
        "local_network": "browsing",
        "clock_ahead_s": 0.25,
    }
    lines = [line.split(maxsplit=1) for line in cli._render_stats(reply).splitlines()]
    text = cli._render_stats(reply)
    assert "3 of 8 wanted" in text
    assert "1 lan, 2 dialled, 40 heard" in text
    assert "7 started here, 5 by peers" in text
    assert "0.2 s behind the peers'" in text
    assert "agrees with the peers'" in cli._render_stats({**reply, "clock_ahead_s": -0.01})
    assert ["dials", "2 failed"] in lines
    assert ["announcements", "-"] in lines


def test_every_counter_of_discovery_is_shown_with_what_it_counts() -> None:
    named = {name for _, texts in cli._COUNTS for name, _ in texts} | {"exchanges", "answered"}
    source = "".join(path.read_text() for path in PLUGIN.rglob("*.py"))
    counted = set(re.findall(r'counts\["(\w+)"\]', source))
    assert named == counted | set(Outcome) | set(Refusal)


def test_peers_are_shown_as_a_table() -> None:
    row = {
        "id": peer("a"),
        "connected": True,
        "found": "lan",
        "addresses": ["/ip4/192.168.1.5/tcp/8468"],
        "standing": 2.0,
        "failed_dials": 0,
        "retry_s": 0.0,
        "hops": 3,
        "expires_s": 7000.0,
    }
    heading, line = cli._render_peers({"peers": [row]}).splitlines()
    assert heading.split()[:3] == ["PEER", "CONNECTED", "FOUND"]
    assert peer("a")[-8:] in line and "192.168.1.5" in line
    assert cli._render_peers({"peers": []}) == "No peer was found yet."
