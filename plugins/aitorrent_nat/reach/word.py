"""The verdict in a word, and what it rests on. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aitorrent_nat.stun.behaviour import UNKNOWN, Behaviour, Filtering, Mapping
from aitorrent_nat.votes import REGIONS, WITNESSES
from aitorrentd.api import Reach
from aitorrentd.api.network.addresses import host_port


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of how others see this node."""

    peers: int = 0
    "Connected peers."
    outside: int = 0
    "Those that are not in this node's own private network."
    proven_by: str = ""
    "Who last dialled this node from outside, for people; empty if nobody did."
    proven_at: tuple[str, int] | None = None
    "Where it was dialled."
    failed: int = 0
    "Peers outside that tried to dial this node, and could not."
    external: str = ""
    "This node's IP address, as enough peers or a configured server see it."
    behaviour: Behaviour = UNKNOWN
    relays: Sequence[str] = ()
    "Relays through which others reach this node, for people."
    ports: Sequence[int] = ()
    "TCP ports on which this node listens."


def verdict(found: Evidence) -> tuple[Reach, str]:
    """The word, and one line of reasons."""
    if not found.peers:
        return Reach.OFFLINE, "no peer is connected"
    if found.proven_at is not None:
        return Reach.PUBLIC, f"{found.proven_by} dialled {host_port(*found.proven_at)}"
    through = _through(found.relays)
    relayed = f"; {through}" if found.relays else ""
    behaviour = found.behaviour
    if behaviour.mapping is Mapping.ENDPOINT_INDEPENDENT:
        return Reach.CONE, f"{_seen(behaviour)} at one port for all{_filter(behaviour)}{relayed}"
    if behaviour.is_symmetric:
        return Reach.SYMMETRIC, f"{_seen(behaviour)} at a port for each of them{relayed}"
    if found.relays:
        return Reach.RELAYED, f"{through} only"
    if behaviour.mapping is Mapping.NONE and found.failed:
        ports = ", ".join(map(str, found.ports)) or "none"
        return Reach.CONE, f"no NAT, but a firewall keeps peers out of port {ports}{relayed}"
    if behaviour.mapping is Mapping.NONE:
        return Reach.UNKNOWN, "no NAT; no peer outside has tried to dial this node yet"
    return Reach.UNKNOWN, _too_little(found)


def _through(relays: Sequence[str]) -> str:
    return f"reached through the relay{'s' * (len(relays) != 1)} {', '.join(relays)}"


def _seen(behaviour: Behaviour) -> str:
    return f"others see {behaviour.external or 'this node'}"


def _filter(behaviour: Behaviour) -> str:
    return {
        Filtering.ENDPOINT_INDEPENDENT: ", and everybody's packets get in",
        Filtering.ADDRESS_DEPENDENT: ", and packets of hosts it sent to get in",
        Filtering.ADDRESS_AND_PORT_DEPENDENT: ", and only replies get in",
        Filtering.UNKNOWN: "",
    }[behaviour.filtering]


def _too_little(found: Evidence) -> str:
    if not found.outside:
        return "all peers are in this node's own network"
    where = f", which see {found.external}" if found.external else ""
    tried = f"; {found.failed} could not dial this node" if found.failed else ""
    return (
        f"too few peers outside this network: {found.outside}{where}; it takes {WITNESSES} in"
        f" {REGIONS} networks{tried}"
    )
