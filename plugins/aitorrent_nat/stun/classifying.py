"""Asks STUN servers how the NATs on the way behave (RFC 5780, section 4).

Each test that earlier packets could spoil has a fresh socket, since what is sent opens filters.
`host` is the own address to ask from, or 0.0.0.0 or ::.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from aitorrent_nat.networks import Place, is_inside
from aitorrent_nat.stun.asking import Answer, StunSocket
from aitorrent_nat.stun.behaviour import (
    Behaviour,
    Filtering,
    Observation,
    external_of,
    filtering_of,
    keeps_ports,
    mapping_of,
)
from aitorrent_nat.stun.codec import Response, encode_response, new_transaction
from aitorrent_nat.stun.transaction import BRISK, SILENT
from aitorrentd.api import AitorrentError

HAIRPIN_S: Final = 0.5
"A packet that turns round at the NAT needs no longer."


@dataclass(frozen=True, slots=True)
class Asked:
    """What one socket learned from the servers that it asked."""

    observed: tuple[Observation, ...]
    problems: dict[Place, str]
    "Why a server is of no use."
    others: dict[Place, Place]
    "Where else a server can be asked (OTHER-ADDRESS)."
    legacy: tuple[Place, ...]
    "Servers that reply by RFC 3489."


async def observe(socket: StunSocket, servers: Sequence[Place]) -> Asked:
    """Ask all `servers` from one socket, at the same time."""
    results = await asyncio.gather(*(_ask(socket, each) for each in dict.fromkeys(servers)))
    asked = Asked(
        observed=tuple(
            Observation(server, answer.mapped)
            for server, answer in results
            if isinstance(answer, Answer)
        ),
        problems={server: text for server, text in results if isinstance(text, str)},
        others={},
        legacy=tuple(
            server
            for server, answer in results
            if isinstance(answer, Answer) and answer.response.is_legacy
        ),
    )
    for server, answer in results:
        other = answer.response.other if isinstance(answer, Answer) else None
        if other is None:
            continue
        if other[0] == server[0] or is_inside(other[0]) > is_inside(server[0]):
            asked.problems[server] = f"it names {other[0]} as another address, which cannot be"
        else:
            asked.others[server] = other
    return asked


async def _ask(socket: StunSocket, server: Place) -> tuple[Place, Answer | str]:
    try:
        return server, await socket.ask(server, timers=BRISK)
    except AitorrentError as e:
        return server, e.message


async def classify(
    servers: Sequence[Place], own_hosts: frozenset[str], host: str
) -> tuple[Behaviour, Asked]:
    """Behaviour as `servers`, which are trusted, see it.

    One server with two addresses is enough (RFC 5780). Of plain ones it takes two for the mapping,
    and the filtering stays unknown.

    Raises:
        OSError: no socket can be had.
    """
    with StunSocket(host) as socket:
        asked = await observe(socket, servers)
        behaviour = await _mapping(socket, asked, own_hosts)
        if asked.observed:
            hairpins = await hairpins_at(socket, asked.observed[0], own_hosts, host)
            behaviour = replace(behaviour, hairpins=hairpins)
    for server, other in asked.others.items():
        filtering = await filtering_by(server, other, host)
        if filtering is not Filtering.UNKNOWN:
            return replace(behaviour, filtering=filtering), asked
    return behaviour, asked


async def _mapping(socket: StunSocket, asked: Asked, own_hosts: frozenset[str]) -> Behaviour:
    observed = list(asked.observed)
    for server, other in asked.others.items():
        # Section 4.3: the other address at the same port, then at its other port.
        more = await observe(socket, [(other[0], server[1]), other])
        observed += more.observed
        if len(more.observed) == 2:
            break
    own = frozenset((each, socket.port) for each in own_hosts)
    return Behaviour(
        mapping=mapping_of(observed, own, is_trusted=True),
        external=external_of(observed, is_trusted=True),
        keeps_ports=keeps_ports(observed, socket.port),
    )


async def filtering_by(server: Place, other: Place, host: str) -> Filtering:
    """The filtering, from a fresh socket that talks to `server` only (RFC 5780, section 4.4).

    `other` is the server's OTHER-ADDRESS, from which it replies on request.

    Raises:
        OSError: no socket can be had.
    """
    with StunSocket(host) as socket:
        try:
            await socket.ask(server)
        except AitorrentError:
            return Filtering.UNKNOWN
        from_other_host, from_other_port = await asyncio.gather(
            _arrives(socket, server, other, change_ip=True),
            _arrives(socket, server, (server[0], other[1]), change_ip=False),
        )
    return filtering_of(from_other_host=from_other_host, from_other_port=from_other_port)


async def _arrives(socket: StunSocket, server: Place, source: Place, *, change_ip: bool) -> bool:
    try:
        await socket.ask(
            server, change_ip=change_ip, change_port=True, sources=(source,), timers=SILENT
        )
    except AitorrentError:
        return False
    return True


async def hairpins_at(
    socket: StunSocket, seen: Observation, own_hosts: frozenset[str], host: str
) -> bool | None:
    """Whether this node reaches itself at its external address (RFC 5780, section 4.5).

    `seen` is an observation of `socket`. None if there is no NAT, or the server does not answer.

    Raises:
        OSError: no socket can be had.
    """
    if seen.mapped[0] in own_hosts:
        return None
    with StunSocket(host) as second:
        try:
            its = (await second.ask(seen.server)).mapped
        except AitorrentError:
            return None
        transaction = new_transaction()
        raw = encode_response(Response(transaction, mapped=seen.mapped))
        with (
            socket.expecting(transaction, None) as there,
            second.expecting(transaction, None) as back,
        ):
            # Each sending opens the filter for the other direction.
            for _ in range(2):
                socket.send(raw, its)
                second.send(raw, seen.mapped)
                done, _ = await asyncio.wait(
                    {there, back}, timeout=HAIRPIN_S, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    return True
    return False
