"""Proof that this node can be dialled: a connection to its peer port that says a secret nonce.

The nonce is told to one peer, over its channel. So a connection that says it comes from that peer,
or from somebody to whom it told; it counts only from the address of the peer's own channel.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from aitorrent_nat.networks import Place, place_of, region_of
from aitorrent_nat.reach.messages import MAGIC, NONCE_BYTES, DialBack
from aitorrent_nat.reach.talking import Talks
from aitorrent_nat.stun.sockets import is_here
from aitorrentd.api import (
    DIRECT,
    AitorrentError,
    PeerId,
    PeerView,
    Transport,
    called,
)
from aitorrentd.api.network.addresses import parse_address

MAX_PEERS: Final = 3
MAX_PORTS: Final = 2
ARRIVAL_S: Final = 1.0
"After the peer said that it had connected."


class Proofs:
    """Nonces that are waited for; implements `Preface` for the peer port."""

    magic = MAGIC

    def __init__(self) -> None:
        self._pending: dict[bytes, tuple[str, asyncio.Future[None]]] = {}

    @contextmanager
    def expected(self, host: str) -> Iterator[tuple[bytes, asyncio.Future[None]]]:
        """A nonce, and what is done once a connection from `host` says it."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[nonce] = (host, future)
        try:
            yield nonce, future
        finally:
            del self._pending[nonce]

    def serve(self, remote: tuple[str, int], accept: Callable[[], None]) -> asyncio.Protocol:
        """The protocol of one connection (`Preface`); it is never accepted, but closed."""
        return _Proof(lambda nonce: self._said(nonce, remote[0]))

    def _said(self, nonce: bytes, host: str) -> None:
        for expected, (of, future) in self._pending.items():
            if hmac.compare_digest(expected, nonce) and of == host and not future.done():
                future.set_result(None)


class _Proof(asyncio.Protocol):
    def __init__(self, on_nonce: Callable[[bytes], None]) -> None:
        self._on_nonce = on_nonce
        self._bytes = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        wanted = len(MAGIC) + NONCE_BYTES
        self._bytes = (self._bytes + data)[: wanted + 1]
        if len(self._bytes) >= wanted and self._transport is not None:
            if len(self._bytes) == wanted:
                self._on_nonce(self._bytes[len(MAGIC) :])
            self._transport.close()


@dataclass(frozen=True, slots=True)
class Proven:
    """Somebody outside dialled this node."""

    by: str
    "The peer, for people."
    place: Place
    "Where it was dialled."
    is_certain: bool
    "Whether the place is known from more than what one peer says."


def inbound_proof(views: Sequence[PeerView], external: str) -> Proven | None:
    """Proof by peers outside that are connected because they dialled this node.

    A peer at this node's own external address came by a way that strangers do not have.
    """
    for view in views:
        place = place_of(view.observed)
        if view.outbound or view.route != DIRECT or view.host == external or place is None:
            continue
        return Proven(called(view.id, view.name), place, place[0] == external or is_here(place[0]))
    return None


async def dial_backs(
    views: Sequence[PeerView],
    transport: Transport,
    proofs: Proofs,
    talks: Talks,
    external: str,
) -> tuple[Proven | None, set[PeerId]]:
    """Have a few peers dial this node at the same time; and those that could not.

    Each dials the address of its own channel, at the ports where this node listens.
    """
    asked = [view for view in _spread(views) if view.host != external][:MAX_PEERS]
    results = await asyncio.gather(
        *(_dial_back(view, transport, proofs, talks, external) for view in asked)
    )
    proven = next((each for each in results if isinstance(each, Proven)), None)
    failed = {view.id for view, each in zip(asked, results, strict=True) if each is False}
    return proven, failed


async def _dial_back(
    view: PeerView, transport: Transport, proofs: Proofs, talks: Talks, external: str
) -> Proven | bool | None:
    """Proof, or False: the peer could not dial this node, or None: it did not try."""
    seen = place_of(view.observed)
    if seen is None:
        return None
    result: bool | None = None
    for port in _ports(transport, seen[0])[:MAX_PORTS]:
        with proofs.expected(view.host) as (nonce, said):
            try:
                if await talks.ask_for(view.id, DialBack(port, nonce)):
                    await asyncio.wait({said}, timeout=ARRIVAL_S)
            except AitorrentError:
                return result  # it does not dial for others, which says nothing about this node
            if said.done():
                is_certain = seen[0] == external or is_here(seen[0])
                return Proven(called(view.id, view.name), (seen[0], port), is_certain)
            result = False
    return result


def _spread(views: Sequence[PeerView]) -> list[PeerView]:
    """One peer of each network first."""
    first = {region_of(view.host): view for view in reversed(views)}
    return [*first.values(), *(view for view in views if view not in first.values())]


def _ports(transport: Transport, host: str) -> list[int]:
    """Ports at which `host`, this node as a peer sees it, may be dialled; announced ones first."""
    announced = [parse_address(text) for text in transport.addresses()]
    forwarded = [each.port for each in announced if each.host == host and each.relay is None]
    version = ":" in host
    bound = [port for own, port in transport.bound if (":" in own) == version]
    return list(dict.fromkeys([*forwarded, *bound]))
