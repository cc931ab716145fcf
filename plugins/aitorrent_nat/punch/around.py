"""The node, as hole punching sees it: implements `Surroundings` with what the plugin knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from aitorrent_nat.config import NatConfig, server_place
from aitorrent_nat.networks import Place, is_inside
from aitorrent_nat.punch.plan import Behaviour, Nat
from aitorrent_nat.punch.sighting import MAX_BYTES, MAX_SIGHTINGS, PROTOCOL, Sighting, decode
from aitorrent_nat.punch.surroundings import TurnAccess
from aitorrent_nat.relay.dialing import NAME as RELAY
from aitorrent_nat.stun.behaviour import Behaviour as StunBehaviour
from aitorrent_nat.stun.behaviour import Filtering, Mapping
from aitorrentd.api import (
    ATTEMPTS,
    PEER_PORT,
    AitorrentError,
    Attempt,
    PeerId,
    PeerPort,
    PeerView,
    PluginContext,
    Reach,
    Transport,
    read_frame,
)
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.network.resolver import Resolver
from aitorrentd.api.network.routes import DIRECT

MAX_MIRRORS: Final = 4
MAX_SERVERS: Final = 4
ASK_S: Final = 1.5
_MAPPINGS: Final = {
    Mapping.NONE: Behaviour.INDEPENDENT,
    Mapping.ENDPOINT_INDEPENDENT: Behaviour.INDEPENDENT,
    Mapping.ADDRESS_DEPENDENT: Behaviour.ADDRESS,
    Mapping.ADDRESS_AND_PORT_DEPENDENT: Behaviour.PORT,
}
_FILTERINGS: Final = {
    Filtering.ENDPOINT_INDEPENDENT: Behaviour.INDEPENDENT,
    Filtering.ADDRESS_DEPENDENT: Behaviour.ADDRESS,
    Filtering.ADDRESS_AND_PORT_DEPENDENT: Behaviour.PORT,
}


class Witness(Protocol):
    """A peer that answers STUN requests at `place`."""

    @property
    def place(self) -> Place:
        """IP address and UDP port."""


class Reached(Protocol):
    """What is known of how others reach this node."""

    @property
    def behaviour(self) -> StunBehaviour:
        """Of the NATs on the way."""

    @property
    def reach(self) -> Reach:
        """The word."""

    def relays(self, peer: PeerId) -> bool:
        """Whether a connected peer relays for others."""

    def witnesses(self) -> Sequence[Witness]:
        """Connected peers that answer STUN requests."""

    def addresses(self) -> Sequence[Address]:
        """Where this node was dialled, beyond its own addresses."""


class Around:
    """Implements `Surroundings`."""

    def __init__(self, ctx: PluginContext, transport: Transport, reached: Reached) -> None:
        self._ctx = ctx
        self._config: NatConfig = ctx.config
        self._transport = transport
        self._reached = reached
        self._attempts = ctx.service(ATTEMPTS)
        self._port = ctx.service(PEER_PORT)
        self._turn: TurnAccess | None = None
        self._resolver = Resolver()

    @property
    def node_id(self) -> PeerId:
        """See Surroundings."""
        return self._transport.node_id

    @property
    def peer_port(self) -> PeerPort:
        """See Surroundings."""
        return self._port

    @property
    def birthday(self) -> bool:
        """See Surroundings."""
        return self._config.birthday

    def mirrors(self, peer: PeerId) -> Sequence[Place]:
        """See Surroundings."""
        view = self._transport.peer(peer)
        places = [_place(parse_address(view.address))] if view and self.is_relayed(peer) else []
        places += [_place(parse_address(each.address)) for each in self._dialled_relays()]
        return list(dict.fromkeys(each for each in places if each is not None))[:MAX_MIRRORS]

    def _dialled_relays(self) -> list[PeerView]:
        return [
            view
            for view in self._transport.peers()
            if view.route == DIRECT and view.outbound and self._reached.relays(view.id)
        ]

    def stun_servers(self) -> Sequence[Place]:
        """See Surroundings."""
        found = [each.place for each in self._reached.witnesses() if ":" not in each.place[0]]
        return list(dict.fromkeys(found))[:MAX_SERVERS]

    def nat(self) -> Nat:
        """See Surroundings."""
        known = self._reached.behaviour
        return Nat(
            _MAPPINGS.get(known.mapping, Behaviour.UNKNOWN),
            _FILTERINGS.get(known.filtering, Behaviour.UNKNOWN),
        )

    def listening(self) -> Sequence[Place]:
        """See Surroundings."""
        announced = [parse_address(text) for text in self._transport.announced]
        if self._reached.reach is not Reach.PUBLIC and not announced:
            return []
        own = [parse_address(text) for text in self._transport.addresses()]
        places = map(_place, (*announced, *self._reached.addresses(), *own))
        return list(dict.fromkeys(each for each in places if each and not is_inside(each[0])))[:2]

    def local_hosts(self) -> Sequence[str]:
        """See Surroundings."""
        own = [parse_address(text) for text in self._transport.addresses()]
        hosts = [each.host for each in own if each.family == "ip4" and each.relay is None]
        return [host for host in dict.fromkeys(hosts) if not host.startswith("127.")][:4]

    async def sightings(self, peer: PeerId) -> Sequence[Sighting]:
        """See Surroundings."""
        asked = await asyncio.gather(*map(self._ask, self._witnesses(peer)))
        return [
            each
            for each in asked
            if each is not None
            and each.is_true(self._ctx.network, self.node_id, self._ctx.clock.time())
        ]

    def _witnesses(self, peer: PeerId) -> list[PeerId]:
        """Peers that `peer` may be connected to as well: first the relay between the two."""
        view = self._transport.peer(peer)
        relay = parse_address(view.address).relay if view and self.is_relayed(peer) else None
        found = [relay, *(each.id for each in self._dialled_relays())]
        return [each for each in dict.fromkeys(found) if each and self.is_direct(each)][
            :MAX_SIGHTINGS
        ]

    async def _ask(self, witness: PeerId) -> Sighting | None:
        try:
            async with asyncio.timeout(ASK_S):
                stream = await self._transport.open_stream(witness, PROTOCOL)
                try:
                    await stream.close_write()
                    return decode(await read_frame(stream, max_bytes=MAX_BYTES))
                finally:
                    stream.reset("done")
        except (AitorrentError, TimeoutError):
            return None

    def believed(self, peer: PeerId, sightings: Sequence[Sighting]) -> frozenset[str]:
        """See Surroundings."""
        now = self._ctx.clock.time()
        return frozenset(
            each.host
            for each in sightings
            if each.witness not in (peer, self.node_id)
            and self.is_direct(each.witness)
            and each.is_true(self._ctx.network, peer, now)
        )

    def turn(self) -> TurnAccess | None:
        """See Surroundings."""
        return self._turn

    async def find_turn(self) -> None:
        """Resolve the TURN server's name."""
        server = self._config.turn
        if server is None or self._turn is not None:
            return
        scheme, _, rest = server.url.partition(":")
        where, _, query = rest.partition("?transport=")
        host, port = server_place(where)
        for _, address in await self._resolver.resolve(host, version=4):
            self._turn = TurnAccess(
                (address, port),
                server.user,
                server.password.get_secret_value(),
                tls=scheme == "turns",
                transport=query or ("tcp" if scheme == "turns" else "udp"),
            )
            return

    def is_direct(self, peer: PeerId) -> bool:
        """See Surroundings."""
        return self._transport.peer(peer) is not None and not self.is_relayed(peer)

    def is_relayed(self, peer: PeerId) -> bool:
        """Whether the peer is connected through a relay."""
        view = self._transport.peer(peer)
        return view is not None and view.route == RELAY

    def note(self, peer: PeerId, attempt: Attempt) -> None:
        """See Surroundings."""
        self._attempts.note(peer, attempt)

    def unix_s(self) -> float:
        """See Surroundings."""
        return self._ctx.clock.time()


def _place(address: Address) -> Place | None:
    """Where the TCP connection to `address` goes, if that is plain and an IPv4 address."""
    if address.family != "ip4" or address.masked:
        return None
    return address.host, address.port
