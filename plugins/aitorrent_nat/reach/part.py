"""Reachability, as a part of the NAT plugin: what is known, and the rounds that find it out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from aitorrent_nat.config import NatConfig
from aitorrent_nat.networks import is_inside, place_of
from aitorrent_nat.reach.assisted import Witness, chosen, classify_with_peers
from aitorrent_nat.reach.hellos import Hellos
from aitorrent_nat.reach.proving import Proofs, Proven, dial_backs, inbound_proof
from aitorrent_nat.reach.servers import Servers, merged
from aitorrent_nat.reach.word import Evidence, verdict
from aitorrent_nat.stun.behaviour import UNKNOWN, Behaviour, Observation
from aitorrent_nat.stun.server import StunServer
from aitorrent_nat.stun.sockets import local_host
from aitorrent_nat.votes import elect
from aitorrentd.api import (
    ADVERTISERS,
    PEER_PORT,
    Event,
    HealthWarning,
    NetworkChanged,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    PeerRouteChanged,
    PeerView,
    PluginContext,
    Protection,
    Reach,
    Transport,
    WireProtocol,
    called,
)
from aitorrentd.api.network.addresses import Address, address_of
from aitorrentd.api.tasks import Tasks

SETTLE_S: Final = 1.0
"After news, so that one round serves several peers that connect together."
GAP_S: Final = 5.0
"Between two rounds at least, whatever happens."
RETRY_S: Final = 60.0
"Between two rounds while something is not known."
EVERY_S: Final = 600.0
"Between two rounds otherwise; mappings and firewalls change, slowly."
_KNOWN: Final = frozenset(Reach) - {Reach.OFFLINE, Reach.UNKNOWN}


class ReachPart:
    """Implements `aitorrent_nat.parts.Part`, `Reachability` and `Advertiser`."""

    name = "reachability"

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        transport: Transport,
        guard: Protection,
        stun: StunServer,
    ) -> None:
        config: NatConfig = ctx.config
        self.behaviour: Behaviour = UNKNOWN
        self.relayed_by: Callable[[], Sequence[PeerId]] = tuple
        "Relays through which others reach this node; the relays set it."
        self.on_learned: Callable[[], None] = lambda: None
        "Called when the NAT is known to behave otherwise than before."
        self.servers = Servers(ctx, config.servers())
        self._ctx = ctx
        self._tasks = tasks
        self._transport = transport
        self.proofs = Proofs()
        self.hellos = Hellos(ctx, tasks, transport, guard, stun)
        self.hellos.on_met = self._look_if_unsettled
        self.observed: list[Observation] = []
        "Where peers saw this node in the last round."
        self._proven: Proven | None = None
        self._failed: set[PeerId] = set()
        self._silent: set[PeerId] = set()
        "Peers whose STUN server did not answer in the last round."
        self._logged: Reach | None = None
        self._is_stale = False
        "Whether the network changed since the last round that found anything out."
        self._wake = asyncio.Event()
        self._round = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Find out who can dial this node while the block runs."""
        with (
            self._ctx.service(PEER_PORT).prefaces.added("dial-back", self.proofs),
            self._ctx.service(ADVERTISERS).added("dialled", self),
        ):
            self._tasks.spawn(self._follow(), "nat: news of peers")
            self._tasks.spawn(self.hellos.keep_told(), "nat: hellos")
            if self.servers.places:
                self._wake.set()
            self._tasks.spawn(self._rounds(), "nat: reachability")
            yield

    # Peers

    def relays(self, peer: PeerId) -> bool:
        """Whether a connected peer says that it relays for others."""
        return self.hellos.relays(peer)

    def witnesses(self) -> list[Witness]:
        """Connected peers outside this node's own network that answer STUN requests.

        Those that did not last time, and those that this node did not dial, may be behind NATs.
        """
        found = [
            Witness(
                view.id,
                (view.host, hello.stun),
                hello.alternate,
                is_likely=view.outbound and view.id not in self._silent,
            )
            for view in self._outside()
            if (hello := self.hellos.of(view.id)) is not None and hello.stun
        ]
        return sorted(found, key=lambda each: not each.is_likely)

    def _outside(self) -> list[PeerView]:
        views = self._transport.peers()
        return [view for view in views if view.host and not is_inside(view.host)]

    async def _follow(self) -> None:
        kinds = (PeerConnected, PeerDisconnected, PeerRouteChanged, NetworkChanged)
        while True:
            with self._ctx.subscribe(*kinds) as events:
                for view in self._transport.peers():
                    self.hellos.greet(view.id)
                async for event in events:
                    self._happened(event)

    def _happened(self, event: Event) -> None:
        if isinstance(event, PeerConnected):
            if event.outbound:
                self.hellos.greet(event.peer)
            self._proven = self._inbound_proof() or self._proven
        elif isinstance(event, PeerDisconnected):
            self.hellos.forget(event.peer)
            self._failed.discard(event.peer)
        elif isinstance(event, PeerRouteChanged):
            self._look_if_unsettled()  # the address of a relayed peer may be known now
        elif isinstance(event, NetworkChanged):
            self._is_stale = True
            self._wake.set()

    def _look_if_unsettled(self) -> None:
        if not self._is_settled():
            self._wake.set()

    # Rounds

    def _is_settled(self) -> bool:
        if self._is_stale:
            return False
        return self.behaviour.is_known and (self._proven is not None or len(self._failed) > 1)

    async def _rounds(self) -> None:
        while True:
            every_s = EVERY_S if self._is_settled() else RETRY_S
            try:
                async with asyncio.timeout(every_s * (0.75 + self._ctx.random.random() / 2)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(SETTLE_S * (0.5 + self._ctx.random.random()))
            self._wake.clear()
            await self.look()
            await asyncio.sleep(GAP_S)

    async def look(self) -> None:
        """Find out everything anew, with those who are connected now."""
        async with self._round:
            outside = bool(self._outside())
            before = self.behaviour.mapping, self.behaviour.filtering
            await asyncio.gather(self._classify(), self._prove())
            now_known = self.behaviour.mapping, self.behaviour.filtering
            if self.behaviour.is_known and now_known != before:
                self.on_learned()
            self._is_stale = self._is_stale and not outside
            if (now := self.reach) is not self._logged and (self._logged or now in _KNOWN):
                self._logged = now
                self._ctx.log.info("reachability: %s (%s)", now, self.reason)

    async def _classify(self) -> None:
        try:
            found = await self.servers.classify(self.host_to_ask_from)
            witnesses = self._one_version(self.witnesses())
            self.observed = []
            if witnesses:
                place = witnesses[0].place
                behaviour, self.observed = await classify_with_peers(
                    witnesses,
                    frozenset((local_host(place),)),
                    self.host_to_ask_from(place[0]),
                    self.hellos.talks.ask_for,
                )
                found = merged(found, behaviour)
                answered = {each.server for each in self.observed}
                asked = chosen(witnesses)
                self._silent = {each.peer for each in asked if each.place not in answered}
        except OSError as e:
            self._ctx.log.info("cannot test the NAT: %s", e.strerror)
            return
        if self._is_stale:
            self.behaviour = found
        elif found.is_known or not self.behaviour.is_known:
            # Only `nat probe` measures the lifetime.
            self.behaviour = replace(found, lifetime_s=self.behaviour.lifetime_s)

    @staticmethod
    def _one_version(witnesses: Sequence[Witness]) -> list[Witness]:
        """Those of one IP version: of IPv4, where the NATs are, unless most are of the other."""
        by_ip4 = [each for each in witnesses if ":" not in each.place[0]]
        by_ip6 = [each for each in witnesses if ":" in each.place[0]]
        return by_ip4 if len(by_ip4) >= len(by_ip6) else by_ip6

    def host_to_ask_from(self, server: str) -> str:
        """An own address that the transport listens on, or the wildcard."""
        is_ip6 = ":" in server
        for host, _ in self._transport.bound:
            if (":" in host) == is_ip6 and (not is_inside(host) or is_inside(server)):
                return host
        return "::" if is_ip6 else "0.0.0.0"

    async def _prove(self) -> None:
        """Have peers outside dial this node, unless one of them did on its own."""
        if proof := self._inbound_proof():
            self._proven = proof
            return
        # The connection of a dial-back is not masked, and would betray this node.
        views = [] if self._transport.is_masking else self._outside()
        asked = [view for view in views if view.id in self.hellos]
        proof, failed = await dial_backs(
            asked, self._transport, self.proofs, self.hellos.talks, self._external()
        )
        self._failed = failed
        is_refuted = len(failed) > 1 or (failed and len(failed) == len(asked))
        if proof is not None or is_refuted or self._is_stale:
            self._proven = proof

    def _inbound_proof(self) -> Proven | None:
        return inbound_proof(self._outside(), self._external())

    def _external(self) -> str:
        """This node's IP address as enough witnesses see it, or a configured server."""
        said = [
            (view.host, place[0])
            for view in self._outside()
            if (place := place_of(view.observed)) is not None
        ]
        said += [(each.server[0], each.mapped[0]) for each in self.observed]
        by_ip4 = elect([(host, seen) for host, seen in said if ":" not in seen])
        by_ip6 = elect([(host, seen) for host, seen in said if ":" in seen])
        return by_ip4 or by_ip6 or self.behaviour.external

    # Reachability, Advertiser and Part

    def _evidence(self) -> Evidence:
        proven = self._proven
        return Evidence(
            peers=len(self._transport.peers()),
            outside=len(self._outside()),
            proven_by=proven.by if proven else "",
            proven_at=proven.place if proven else None,
            failed=len(self._failed),
            external=self._external(),
            behaviour=self.behaviour,
            relays=[self._called(peer) for peer in self.relayed_by()],
            ports=sorted({port for _, port in self._transport.bound}),
        )

    def _called(self, peer: PeerId) -> str:
        view = self._transport.peer(peer)
        return called(peer, view.name if view else "")

    @property
    def reach(self) -> Reach:
        """The word."""
        return verdict(self._evidence())[0]

    @property
    def reason(self) -> str:
        """What it rests on, in one line."""
        return verdict(self._evidence())[1]

    @property
    def external(self) -> str:
        """This node's IP address as others see it; empty while unknown."""
        return self._external()

    @property
    def is_closed(self) -> bool:
        """Whether strangers' datagrams are kept out; see `Reachability.is_closed`."""
        return self.reach in (Reach.CONE, Reach.SYMMETRIC, Reach.RELAYED) and self.behaviour.filters

    def addresses(self) -> Sequence[Address]:
        """Where this node was dialled, if that is an address that it does not have itself."""
        if self._proven is None or not self._proven.is_certain:
            return ()
        return [address_of(*self._proven.place)]

    def protocols(self) -> Iterable[WireProtocol]:
        """Questions of peers."""
        return [self.hellos.talks.protocol()]

    def state(self) -> str:
        """The word and its reason."""
        reach, reason = verdict(self._evidence())
        return f"{reach}: {reason}"

    def warnings(self) -> Iterable[HealthWarning]:
        """STUN servers that are of no use."""
        return self.servers.warnings(self._external())
