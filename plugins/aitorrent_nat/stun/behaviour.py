"""How a NAT behaves, in the terms of RFC 4787 and RFC 5780, and what follows from observations.

No I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from aitorrent_nat.networks import Place
from aitorrent_nat.votes import are_enough, elect


class Mapping(StrEnum):
    """When packets from one local port get one external address (RFC 4787, section 4.1)."""

    UNKNOWN = "unknown"
    NONE = "none"
    "No NAT: others see this node's own address."
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(StrEnum):
    """Whose packets get in (RFC 4787, section 5)."""

    UNKNOWN = "unknown"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    "Everybody's."
    ADDRESS_DEPENDENT = "address-dependent"
    "Those of hosts to which something was sent."
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    "Those of hosts and ports to which something was sent."


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What is known of the NATs and firewalls between this node and the others."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    external: str = ""
    "This node's IP address as others see it; empty while unknown."
    keeps_ports: bool | None = None
    "Whether the external port is the local one."
    hairpins: bool | None = None
    "Whether this node reaches itself at its external address."
    lifetime_s: float | None = None
    "How long an idle mapping is at least kept."

    @property
    def is_known(self) -> bool:
        """Whether it is known how external ports are assigned."""
        return self.mapping is not Mapping.UNKNOWN

    @property
    def is_symmetric(self) -> bool:
        """Whether each destination sees this node at another port."""
        return self.mapping in (Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)

    @property
    def filters(self) -> bool:
        """Whether it is known that not everybody's packets get in."""
        return self.filtering not in (Filtering.UNKNOWN, Filtering.ENDPOINT_INDEPENDENT)


UNKNOWN: Final = Behaviour()
"Nothing is known."


class Observation(NamedTuple):
    """One socket, as the server that it asked saw it."""

    server: Place
    mapped: Place


def mapping_of(
    observed: Sequence[Observation], own: frozenset[Place], *, is_trusted: bool
) -> Mapping:
    """The mapping of the NAT in front of a socket, by observations of it; `own` are the places
    where it would be seen without a NAT.

    Servers that somebody configured are trusted; peers are believed as `votes` says.
    """
    by_host: dict[str, list[Place]] = {}
    for each in observed:
        by_host.setdefault(each.server[0], []).append(each.mapped)
    firsts = [(host, places[0]) for host, places in by_host.items()]
    agreed = _agreed(firsts, is_trusted=is_trusted)
    if agreed in own:
        return Mapping.NONE
    if agreed is not None:
        return Mapping.ENDPOINT_INDEPENDENT if len(firsts) > 1 else Mapping.UNKNOWN
    enough = len(firsts) > 1 and (is_trusted or are_enough(list(by_host)))
    if not enough or len({place for _, place in firsts}) < len(firsts):
        return Mapping.UNKNOWN  # neither do most agree nor do all differ: somebody lies
    pairs = [places for places in by_host.values() if len(places) > 1]
    same = sum(len(set(places)) == 1 for places in pairs)
    if 2 * same > len(pairs):
        return Mapping.ADDRESS_DEPENDENT
    return Mapping.ADDRESS_AND_PORT_DEPENDENT


def _agreed(firsts: Sequence[tuple[str, Place]], *, is_trusted: bool) -> Place | None:
    if not is_trusted:
        return elect(firsts)
    places = {place for _, place in firsts}
    return places.pop() if len(places) == 1 else None


def external_of(observed: Sequence[Observation], *, is_trusted: bool) -> str:
    """This node's IP address as most see it; empty if too few or no two of them agree."""
    said = [(each.server[0], each.mapped[0]) for each in observed]
    if not is_trusted:
        return elect(said) or ""
    return Counter(host for _, host in said).most_common(1)[0][0] if said else ""


def keeps_ports(observed: Sequence[Observation], port: int) -> bool | None:
    """Whether the external port is the local `port`, for most servers."""
    if not observed:
        return None
    return 2 * sum(each.mapped[1] == port for each in observed) > len(observed)


def filtering_of(*, from_other_host: bool, from_other_port: bool) -> Filtering:
    """The filtering, by what arrived from where nothing had been sent to."""
    if from_other_host:
        return Filtering.ENDPOINT_INDEPENDENT
    if from_other_port:
        return Filtering.ADDRESS_DEPENDENT
    return Filtering.ADDRESS_AND_PORT_DEPENDENT
