"""How NATs behave, found out with the help of peers: the tests of RFC 5780 without its servers.

Peers stand in for a server with several addresses. Nothing is sent to anybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from aitorrent_nat.networks import Place, region_of
from aitorrent_nat.reach.messages import SendDatagram
from aitorrent_nat.stun.asking import StunSocket
from aitorrent_nat.stun.behaviour import (
    Behaviour,
    Filtering,
    Mapping,
    Observation,
    external_of,
    filtering_of,
    keeps_ports,
    mapping_of,
)
from aitorrent_nat.stun.classifying import hairpins_at, observe
from aitorrent_nat.stun.codec import new_transaction
from aitorrentd.api import AitorrentError, PeerId

MAX_WITNESSES: Final = 8
ARRIVAL_S: Final = 1.5
"After the peer said that it sent the datagram."

Assist = Callable[[PeerId, SendDatagram], Awaitable[bool]]
"Has a peer send a datagram, as `Talks.ask_for`."


@dataclass(frozen=True, slots=True)
class Witness:
    """A peer that answers STUN requests."""

    peer: PeerId
    place: Place
    "Its STUN server, at the IP address of its channel."
    alternate: int
    "That server's other port, or 0."
    is_likely: bool = True
    "Whether its server can be reached, as far as is known: it may be behind a NAT itself."


def chosen(witnesses: Sequence[Witness]) -> list[Witness]:
    """At most eight, likely ones first, from as many networks as possible; one of each host."""
    likely_first = sorted(witnesses, key=lambda each: not each.is_likely)
    by_host = {each.place[0]: each for each in reversed(likely_first)}
    rounds: dict[str, int] = {}
    ranked: list[tuple[int, Witness]] = []
    for each in reversed(by_host.values()):
        region = region_of(each.place[0])
        ranked.append((rounds.setdefault(region, 0), each))
        rounds[region] += 1
    ranked.sort(key=lambda pair: (not pair[1].is_likely, pair[0]))
    return [each for _, each in ranked[:MAX_WITNESSES]]


async def classify_with_peers(
    witnesses: Sequence[Witness], own_hosts: frozenset[str], host: str, assist: Assist
) -> tuple[Behaviour, list[Observation]]:
    """Behaviour, and where each witness saw this node.

    Raises:
        OSError: no socket can be had.
    """
    asked = chosen(witnesses)
    places = [each.place for each in asked]
    # The second port of one witness tells the two kinds of dependent mappings apart.
    seconds = [(each.place[0], each.alternate) for each in asked if each.alternate][:2]
    with StunSocket(host) as socket:
        seen = await observe(socket, [*places, *seconds])
        own = frozenset((each, socket.port) for each in own_hosts)
        observed = list(seen.observed)
        behaviour = Behaviour(
            mapping=mapping_of(observed, own, is_trusted=False),
            external=external_of(observed, is_trusted=False),
            keeps_ports=keeps_ports(observed, socket.port),
        )
        if behaviour.mapping is Mapping.ENDPOINT_INDEPENDENT:
            hairpins = await hairpins_at(socket, observed[0], own_hosts, host)
            behaviour = replace(behaviour, hairpins=hairpins)
    if behaviour.is_known:
        answering = {each.server for each in observed}
        helpers = [each for each in asked if each.place in answering]
        filtering = await filtering_with_peers(helpers, host, assist)
        behaviour = replace(behaviour, filtering=filtering)
    return behaviour, observed


async def filtering_with_peers(
    witnesses: Sequence[Witness], host: str, assist: Assist
) -> Filtering:
    """The filtering: which datagrams reach a fresh socket that talks to one witness only.

    Others, and that witness from its other port, send one each. Datagrams get lost, so two others
    are asked where there are two.
    """
    near = next((each for each in witnesses if each.alternate), None)
    others = [each for each in witnesses if near and each.place[0] != near.place[0]][:2]
    if near is None or not others:
        return Filtering.UNKNOWN
    with StunSocket(host) as socket:
        try:
            port = (await socket.ask(near.place)).mapped[1]
        except AitorrentError:
            return Filtering.UNKNOWN
        arrived = await asyncio.gather(
            _arrives(socket, near, port, assist, from_alternate=True),
            *(_arrives(socket, each, port, assist, from_alternate=False) for each in others),
        )
    from_near, *from_others = arrived
    if from_near is None or all(each is None for each in from_others):
        return Filtering.UNKNOWN
    return filtering_of(from_other_host=any(from_others), from_other_port=from_near)


async def _arrives(
    socket: StunSocket, sender: Witness, port: int, assist: Assist, *, from_alternate: bool
) -> bool | None:
    """Whether a datagram of `sender` arrives; None if it was not sent."""
    transaction = new_transaction()
    source = (sender.place[0], sender.alternate if from_alternate else sender.place[1])
    with ExitStack() as stack:
        arrival = stack.enter_context(socket.expecting(transaction, (source,)))
        try:
            if not await assist(sender.peer, SendDatagram(port, transaction, from_alternate)):
                return None
        except AitorrentError:
            return None
        await asyncio.wait({arrival}, timeout=ARRIVAL_S)
        return arrival.done()
