"""Reachability, as a part of the NAT plugin: what is known, and the rounds that find it out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aitorrent_nat.config import NatConfig
from aitorrent_nat.networks import Place, is_inside
from aitorrent_nat.reach.assisted import Witness, classify_with_peers
from aitorrent_nat.reach.messages import Hello
from aitorrent_nat.reach.proving import Proofs, Proven, dial_backs, inbound_proof, place_of
from aitorrent_nat.reach.servers import Servers, merged
from aitorrent_nat.reach.talking import Talks
from aitorrent_nat.reach.word import Evidence, verdict
from aitorrent_nat.stun.behaviour import UNKNOWN, Behaviour, Observation
from aitorrent_nat.stun.server import StunServer
from aitorrent_nat.stun.sockets import local_host
from aitorrent_nat.votes import elect
from aitorrentd.api import (
    ADVERTISERS,
    PEER_PORT,
    AitorrentError,
    HealthWarning,
    NetworkChanged,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    PeerView,
    PluginContext,
    Protection,
    Reach,
    Transport,
    WireProtocol,
    called,
    short,
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
GREET_S: Final = 2.0
"Between two looks at whether what this node tells its peers has changed."


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
        self.relays_for_others: Callable[[], bool] = lambda: False
        "Whether this node relays now; the relays set it."
        self.relayed_by: Callable[[], Sequence[PeerId]] = tuple
        "Relays through which others reach this node; the relays set it."
        self.servers = Servers(ctx, config.servers())
        self._ctx = ctx
        self._tasks = tasks
        self._transport = transport
        self.stun = stun
        self.proofs = Proofs()
        self.talks = Talks(ctx, transport, guard, self.own_hello, self._send, self._heard)
        self._hellos: dict[PeerId, Hello] = {}
        self._told = Hello()
        self.observed: list[Observation] = []
        "Where peers saw this node in the last round."
        self._proven: Proven | None = None
        self._failed: set[PeerId] = set()
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
            self._tasks.spawn(self._keep_told(), "nat: hellos")
            if self.servers.places:
                self._wake.set()
            self._tasks.spawn(self._rounds(), "nat: reachability")
            yield

    # What others may know of peers

    def relays(self, peer: PeerId) -> bool:
        """Whether a connected peer says that it relays for others."""
        hello = self._hellos.get(peer)
        return hello is not None and hello.relays

    def hello_of(self, peer: PeerId) -> Hello | None:
        """What a connected peer offers; None until it said so."""
        return self._hellos.get(peer)

    def witnesses(self) -> list[Witness]:
        """Connected peers outside this node's own network that answer STUN requests."""
        return [
            Witness(view.id, (view.host, hello.stun), hello.alternate)
            for view in self._outside()
            if (hello := self._hellos.get(view.id)) is not None and hello.stun
        ]

    def _outside(self) -> list[PeerView]:
        views = self._transport.peers()
        return [view for view in views if view.host and not is_inside(view.host)]

    # Hellos

    def own_hello(self) -> Hello:
        """What this node tells its peers."""
        return Hello(*self.stun.ports, relays=self.relays_for_others())

    def _heard(self, peer: PeerId, hello: Hello) -> None:
        if self._transport.peer(peer) is None:
            return
        is_news = self._hellos.get(peer) != hello
        self._hellos[peer] = hello
        if is_news and not self._is_settled():
            self._wake.set()

    async def _follow(self) -> None:
        while True:
            with self._ctx.subscribe(PeerConnected, PeerDisconnected, NetworkChanged) as events:
                for view in self._transport.peers():
                    self._greet(view.id)
                async for event in events:
                    if isinstance(event, PeerConnected) and event.outbound:
                        self._greet(event.peer)
                    elif isinstance(event, PeerDisconnected):
                        self._hellos.pop(event.peer, None)
                        self._failed.discard(event.peer)
                    elif isinstance(event, NetworkChanged):
                        self._is_stale = True
                        self._wake.set()

    def _greet(self, peer: PeerId) -> None:
        self._tasks.spawn(self._greeting(peer), f"nat: hello to {short(peer)}")

    async def _greeting(self, peer: PeerId) -> None:
        try:
            await self.talks.greet(peer)
        except AitorrentError as e:
            self._ctx.log.debug("no hello from %s: %s", short(peer), e.message)

    async def _keep_told(self) -> None:
        """Tell peers what changed since they were told."""
        self._told = self.own_hello()
        while True:
            await asyncio.sleep(GREET_S)
            if (own := self.own_hello()) != self._told:
                self._told = own
                for peer in self._hellos:
                    self._greet(peer)

    def _send(self, raw: bytes, to: Place, from_alternate: bool) -> bool:
        return self.stun.send(raw, to, from_alternate=from_alternate)

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
            before = self.reach
            outside = bool(self._outside())
            await self._classify()
            await self._prove()
            self._is_stale = self._is_stale and not outside
            if (now := self.reach) is not before:
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
                    self.talks.ask_for,
                )
                found = merged(found, behaviour)
        except OSError as e:
            self._ctx.log.info("cannot test the NAT: %s", e.strerror)
            return
        if found.is_known or self._is_stale or not self.behaviour.is_known:
            self.behaviour = found

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
        views = self._outside()
        if proof := inbound_proof(views, self._external()):
            self._proven = proof
            return
        asked = [view for view in views if view.id in self._hellos]
        proof, failed = await dial_backs(
            asked, self._transport, self.proofs, self.talks, self._external()
        )
        self._failed = failed
        is_refuted = len(failed) > 1 or (failed and len(failed) == len(asked))
        if proof is not None or is_refuted or self._is_stale:
            self._proven = proof

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

    def addresses(self) -> Sequence[Address]:
        """Where this node was dialled, if that is an address that it does not have itself."""
        if self._proven is None or not self._proven.is_certain:
            return ()
        return [address_of(*self._proven.place)]

    def protocols(self) -> Iterable[WireProtocol]:
        """Questions of peers."""
        return [self.talks.protocol()]

    def state(self) -> str:
        """The word and its reason."""
        reach, reason = verdict(self._evidence())
        return f"{reach}: {reason}"

    def warnings(self) -> Iterable[HealthWarning]:
        """STUN servers that are of no use."""
        return self.servers.warnings(self._external())
