"""`nat probe`: a test of the NAT now, by named servers, the configured ones, or peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from aitorrent_nat.networks import Place
from aitorrent_nat.reach.assisted import Witness
from aitorrent_nat.reach.messages import SendDatagram
from aitorrent_nat.reach.servers import Servers
from aitorrent_nat.service import NatService
from aitorrent_nat.stun.asking import StunSocket
from aitorrent_nat.stun.behaviour import Behaviour, Mapping, Observation
from aitorrent_nat.stun.lifetime import WAITS_S, Poke, lifetime_s, poke_by
from aitorrent_nat.votes import REGIONS, WITNESSES
from aitorrentd.api import AitorrentError, Unavailable

Progress = Callable[[str], None]
_NOBODY: Final = (
    "there is nobody to ask: no peer outside this network answers STUN requests; connect to peers,"
    " set plugins.nat.stun, or name a server: nat probe --server HOST:PORT"
)
_SILENT: Final = "no peer answered; see aitorrentctl peers, then try again"


@dataclass(frozen=True, slots=True)
class Probed:
    """What a test found."""

    behaviour: Behaviour
    observed: Sequence[Observation]
    problems: dict[Place, str]
    problem: str = ""
    "Why not everything was found."


async def probe(
    service: NatService,
    servers: Sequence[Place] | None,
    *,
    lifetime: bool,
    progress: Progress,
) -> Probed:
    """Test the NAT; `servers` None stands for the configured ones and the peers.

    Raises:
        Unavailable: nobody can be asked, or nobody answered.
    """
    reach = service.reach
    if servers is None:
        asked, witnesses = reach.servers, reach.witnesses()
        if not witnesses and not service.config.stun:
            raise Unavailable(_NOBODY)
        progress("testing how the NAT maps and filters")
        await reach.look()
        found = Probed(reach.behaviour, [*asked.observed, *reach.observed], dict(asked.problems))
    else:
        asked, witnesses = Servers(service.ctx, servers), []
        progress("testing how the NAT maps and filters")
        behaviour = await asked.classify(reach.host_to_ask_from)
        found = Probed(behaviour, asked.observed, dict(asked.problems))
    if servers is None and not service.config.stun and not found.observed:
        raise Unavailable(_SILENT)  # what is known is from an earlier round
    if not found.observed and not found.behaviour.external:
        raise Unavailable("; ".join(found.problems.values()) or _NOBODY)
    if found.behaviour.mapping is Mapping.UNKNOWN:
        found = replace(found, problem=_too_few(found, by_peers=servers is None))
    if not lifetime:
        return found
    progress(f"measuring the lifetime of mappings, for {WAITS_S[-1]:.0f} s")
    found = await _with_lifetime(service, found, witnesses)
    if servers is None:
        reach.behaviour = replace(reach.behaviour, lifetime_s=found.behaviour.lifetime_s)
    return found


def _too_few(found: Probed, *, by_peers: bool) -> str:
    """Why the mapping is unknown."""
    if by_peers:
        hosts = len({each.server[0] for each in found.observed})
        return (
            f"the mapping takes answers from {WITNESSES} hosts in {REGIONS} networks (/16):"
            f" {hosts} answered; connect to more peers, or set plugins.nat.stun"
        )
    return (
        "the mapping takes a server with two addresses (RFC 5780); without --server, peers are"
        " asked"
    )


async def _with_lifetime(
    service: NatService, found: Probed, witnesses: Sequence[Witness]
) -> Probed:
    """The lifetime, by a peer if there is one, or else by a server."""
    reach = service.reach
    seen = {each.server for each in found.observed}
    witness = next((each for each in witnesses if each.place in seen), None)
    server = witness.place if witness else found.observed[0].server
    host = reach.host_to_ask_from(server[0])
    try:
        with StunSocket(host) as socket:
            poke = _poke_by_peer(service, witness) if witness else poke_by(socket, server)
            lasted_s = await lifetime_s(server, poke, host)
    except AitorrentError as e:
        return replace(found, problem=f"the lifetime is unknown: {e.message}")
    return replace(found, behaviour=replace(found.behaviour, lifetime_s=lasted_s))


def _poke_by_peer(service: NatService, witness: Witness) -> Poke:
    async def poke(port: int, transaction: bytes) -> None:
        ask = SendDatagram(port, transaction, from_alternate=False)
        await service.reach.hellos.talks.ask_for(witness.peer, ask)

    return poke
