"""What `nat status`, `nat probe` and the doctor show."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer import BadParameter

from aitorrent_nat import cli, health
from aitorrent_nat.config import NatConfig, server_place
from aitorrent_nat.probing import Probed, _too_few
from aitorrent_nat.service import NatService
from aitorrent_nat.stun.behaviour import UNKNOWN, Behaviour, Mapping, Observation
from aitorrentd.api import ConfigError, Reach
from aitorrentd.validation import validated

KNOWN = {
    "mapping": "endpoint-independent",
    "filtering": "address-dependent",
    "external": "203.0.113.7",
    "keeps_ports": True,
    "hairpins": None,
    "lifetime_s": None,
}


def test_status_begins_with_the_word_and_its_reason() -> None:
    reply = {
        "reach": "behind a cone NAT",
        "reason": "others see 203.0.113.7",
        "behaviour": KNOWN,
        "parts": {"stun": "answers on 8469/udp", "reachability": "the same again"},
    }
    assert cli._status_text(reply).splitlines() == [
        "reach             behind a cone NAT",
        "why               others see 203.0.113.7",
        "external address  203.0.113.7",
        "mapping           endpoint-independent",
        "filtering         address-dependent",
        "keeps ports       yes",
        "hairpins          unknown",
        "stun              answers on 8469/udp",
    ]


@pytest.mark.parametrize(
    ("lifetime_s", "text"), [(0.0, "less than 15 s"), (90.0, "at least 1 min 30 s")]
)
def test_probe_shows_what_servers_said_and_how_long_mappings_last(
    lifetime_s: float, text: str
) -> None:
    reply = {
        "behaviour": {**KNOWN, "lifetime_s": lifetime_s},
        "seen_by": [
            {"server": "198.51.100.1:3478", "mapped": "203.0.113.7:4711", "problem": ""},
            {"server": "198.51.100.2:3478", "mapped": "", "problem": "did not answer"},
        ],
        "problem": "",
    }
    shown = cli._probe_text(reply)
    assert f"mappings last     {text}" in shown
    assert "198.51.100.1:3478  203.0.113.7:4711" in shown
    assert "198.51.100.2:3478  did not answer" in shown


def test_probe_of_no_server_is_a_usage_error() -> None:
    with pytest.raises(BadParameter, match="write HOST:PORT"):
        cli.probe("", False)


def service(
    reach: Reach,
    *,
    behaviour: Behaviour = UNKNOWN,
    relays: Sequence[str] = (),
    upnp: bool = True,
) -> NatService:
    """A service as far as the check looks at it."""
    made: Any = SimpleNamespace(
        reach=SimpleNamespace(
            reach=reach, reason="because", behaviour=behaviour, relayed_by=lambda: relays
        ),
        config=SimpleNamespace(upnp=upnp),
        transport=SimpleNamespace(bound=[("0.0.0.0", 8468), ("::", 8468)]),
    )
    return cast(NatService, made)


@pytest.mark.parametrize(
    ("made", "status", "remedy"),
    [
        (service(Reach.PUBLIC), "ok", ""),
        (service(Reach.UNKNOWN), "ok", ""),
        (service(Reach.OFFLINE), "warn", "connect to a peer"),
        (service(Reach.CONE), "warn", "forward port 8468/tcp to this machine on the router, or"),
        (service(Reach.CONE), "warn", "enable UPnP there"),
        (service(Reach.SYMMETRIC, upnp=False), "warn", "set plugins.nat.upnp to true"),
        (
            service(Reach.CONE, behaviour=Behaviour(Mapping.NONE)),
            "warn",
            "open port 8468/tcp in the firewalls of this machine and its network",
        ),
    ],
)
def test_doctor_says_what_helps(made: NatService, status: str, remedy: str) -> None:
    result = health.check_reach(made)
    assert result.status == status
    assert result.text == f"{made.reach.reach}: because"
    assert remedy in result.remedy
    assert bool(remedy) == bool(result.remedy)


def test_doctor_is_content_with_a_relay_and_says_what_is_better() -> None:
    result = health.check_reach(service(Reach.RELAYED, relays=["r"]))
    assert (result.status, result.remedy) == ("ok", "")
    assert "because; to be dialled as well, forward port 8468/tcp to this machine" in result.text


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("stun.example.org", ("stun.example.org", 3478)),
        ("203.0.113.9:5000", ("203.0.113.9", 5000)),
        ("[2001:db8::1]", ("2001:db8::1", 3478)),
        ("[2001:db8::1]:5000", ("2001:db8::1", 5000)),
    ],
)
def test_stun_server_is_host_and_port(text: str, place: tuple[str, int]) -> None:
    assert server_place(text) == place


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"stun": ["/ip4/203.0.113.9/tcp/3478"]}, "is not HOST:PORT; a server is not written"),
        ({"stun": ["a b"]}, "is not a host name"),
        ({"port": 70_000}, "port"),
        ({"turn": {"url": "http://x", "user": "a", "password": "b"}}, "is not turn:HOST:PORT"),
        ({"relay_limits": {"rate": "fast"}}, "is not a rate"),
        ({"reservations": 9}, "reservations"),
    ],
)
def test_wrong_setting_is_refused(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validated(("plugins", "nat"), NatConfig, table)


def test_probe_says_what_it_takes_to_tell_the_mapping() -> None:
    place = ("203.0.113.7", 4711)
    found = Probed(UNKNOWN, [Observation((f"198.51.100.{n}", 8469), place) for n in (1, 1, 2)], {})
    peers, server = _too_few(found, by_peers=True), _too_few(found, by_peers=False)
    assert "from 3 hosts in 2 networks (/16): 2 answered; connect to more peers" in peers
    assert "a server with two addresses (RFC 5780)" in server
