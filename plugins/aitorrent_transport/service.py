"""The transport service, which ties together listener, peers, dialling and protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aitorrent_transport.config import TransportConfig
from aitorrent_transport.links.binding import Binding
from aitorrent_transport.links.dial import DirectDialer
from aitorrent_transport.links.listener import Listener
from aitorrent_transport.links.path import StalledPaths
from aitorrent_transport.machine.watching import NetworkWatch
from aitorrent_transport.peers.address_file import read_address_file
from aitorrent_transport.peers.banning import Banning
from aitorrent_transport.peers.dialler import Dialler
from aitorrent_transport.peers.keeper import Keeper
from aitorrent_transport.peers.known_peers import PeerStore
from aitorrent_transport.peers.own import OwnAddresses
from aitorrent_transport.peers.peer import Peer
from aitorrent_transport.peers.peer_port import PeerPortService
from aitorrent_transport.peers.revalidating import Revalidation
from aitorrent_transport.peers.store_opening import opened_store
from aitorrent_transport.peers.stream_server import StreamServer
from aitorrent_transport.peers.table import PeerTable
from aitorrent_transport.peers.told import MAX_TOLD_ADDRESSES
from aitorrent_transport.protection.guard import Guard
from aitorrent_transport.protection.limits import STREAMS_BURST, STREAMS_PER_S
from aitorrent_transport.protocols.addresses import Addresses
from aitorrent_transport.protocols.broadcast import Messages
from aitorrent_transport.protocols.directory import ChannelDirectory
from aitorrent_transport.routes.attempts import AttemptLog
from aitorrent_transport.secure.certificate import Credentials, network_key
from aitorrent_transport.secure.hello import HostPort
from aitorrent_transport.streams.frames import is_protocol_id
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrentd.api import (
    Advertiser,
    Attempt,
    Busy,
    Dialer,
    InvalidParams,
    Offence,
    PeerId,
    PeerView,
    PluginContext,
    Priority,
    Registry,
    Stream,
    TimedOut,
    Unavailable,
    short,
)
from aitorrentd.api.limits import PerPeer, TokenBucket
from aitorrentd.api.network.addresses import address_of, host_port, is_address_file, parse_address
from aitorrentd.api.network.directory import MergedDirectory
from aitorrentd.api.tasks import Tasks


def agent() -> str:
    """The software that this node advertises."""
    try:
        return f"aitorrentd/{version('aitorrentd')}"
    except PackageNotFoundError:
        return "aitorrentd/0"


class TransportService:
    """Implements `aitorrentd.api.Transport`; created by `running`."""

    def __init__(self, ctx: PluginContext, config: TransportConfig, store: PeerStore) -> None:
        self.config = config
        self.store = store
        self._ctx = ctx
        self._me = ctx.identity.peer_id
        self._tasks = Tasks(ctx.tasks)
        self._credentials = Credentials(ctx.identity, ctx.network, agent(), config.psk_bytes())
        self._messages = Messages(ctx, self.open_stream)
        self.dialers: Registry[Dialer] = Registry("dialer")
        self.directory = MergedDirectory(ctx.log)
        self.channels = ChannelDirectory(ctx, self._tasks, self.open_stream, self.addresses_of)
        "The directory source that exchanges records with connected peers."
        self._addresses = Addresses(ctx, self.open_stream, self._told_addresses, self._readdressed)
        self._addresses.on_change = lambda: self.channels.readdressed(self._me)
        now = ctx.clock.monotonic
        # Slightly below the peer's limit, since its clock and ours differ.
        self._paces = PerPeer(lambda: TokenBucket(0.9 * STREAMS_PER_S, 0.9 * STREAMS_BURST, now()))
        own = (
            self._messages.protocol(),
            self.channels.protocol(),
            self._addresses.protocol(),
        )
        self.guard = Guard(self._me, ctx.clock, config.limits, log=ctx.log, publish=ctx.publish)
        self._server = StreamServer(ctx, self._tasks, own, self.guard)
        self.table = PeerTable(
            ctx,
            self._tasks,
            guard=self.guard,
            max_peers=config.max_peers,
            peers_per_subnet=config.limits.peers_per_subnet,
            keepalive_s=config.keepalive_s,
            greeting=self._greeting,
            serve=self._server.serve,
        )
        self.table.on_up = self._peer_up
        self.table.on_down = self._peer_down
        self.paths = StalledPaths()
        self.table.on_stalled = self._path_stalled
        self.table.on_readdressed = self.channels.readdressed
        self.table.on_joined = self._link_joined
        self.table.rivals.on_moved = self.channels.peer_moved
        self._listener = Listener(
            self._credentials, self.table.accept, self.paths, limits=config.limits
        )
        self._listener.is_banned = lambda host: bool(self.guard.refusal(host))
        self._listener.on_offence = self._address_misbehaved
        self._listener.on_own_key = self._own_key_dialled
        self.binding = Binding(self._listener, config.listen, self._tasks, ctx.random.random)
        self._own = OwnAddresses(self.binding, config.announce, self._me, now)
        self.attempts = AttemptLog(ctx.clock.time)
        self.port = PeerPortService(
            self.table, self._credentials, self._listener.prefaces, ctx.clock
        )
        self.dialler = Dialler(
            ctx,
            self._tasks,
            self.table,
            store,
            self._credentials,
            self.dialers,
            self.attempts,
            is_own=self._own.includes,
            masking=config.masking,
        )
        self.keeper = Keeper(ctx, self._tasks, self.table, store, self.dialler)
        self.banning = Banning(self.guard, self.table, self.keeper, store, self._tasks, ctx.clock)
        self.revalidation = Revalidation(self.table, self._tasks)
        self.network = NetworkWatch(ctx)
        self.network.on_change = self._network_changed
        store.on_moved = self._take_up_store

    def now(self) -> float:
        """Seconds of the node's monotonic clock."""
        return self._ctx.clock.monotonic()

    @property
    def advertisers(self) -> Registry[Advertiser]:
        """Sources of further addresses to announce."""
        return self._own.advertisers

    @property
    def listener(self) -> Listener:
        """The listener for incoming connections."""
        return self._listener

    async def start(self) -> None:
        """Listen, then dial the configured peers and those of the last run.

        Raises:
            Unavailable: an address cannot be bound, for a permanent cause.
        """
        await self.banning.restore()
        await self._listen()
        self._tasks.spawn(self._server.end_with_plugins(), "handlers of plugins")
        self._tasks.spawn(self.network.run(), "network of the machine")
        self._tasks.spawn(self._addresses.follow(), "own addresses")
        for text in self.config.bootstrap:
            if is_address_file(text):
                self.keeper.keep_file(Path(text))
            elif (address := parse_address(text)).peer != self._me:
                self.keeper.keep_forever(address)
        await self._keep_wanted()

    async def _listen(self) -> None:
        # Peers reconnect to the port where they last reached this node.
        last = await self.store.last_port() if not self.config.port else None
        await self.binding.start(self.config.port, last)
        if self.binding.bound:
            where = ", ".join(f"{h} port {p}" for h, p in self.binding.bound)
            self._ctx.log.info("listening on %s", where)
            if not self.config.port:
                await self.store.listened(self.binding.bound[0][1])
        self.binding.on_bound = self._on_bound_later

    def _path_stalled(self, host: str, port: int) -> None:
        if self.paths.note(host, asyncio.get_running_loop().time()):
            self._ctx.log.warning(
                "the path to %s seems to drop large packets (a tunnel with a small MTU?); using "
                "smaller segments from now on",
                host_port(host, port),
            )

    def _link_joined(self, link: SecureLink, took_s: float, error: str) -> None:
        attempt = Attempt(
            at=self._ctx.clock.time() - took_s,
            way="move",
            where=link.route.location,
            ok=not error,
            outcome=error or "the channel continues here",
            took_s=took_s,
        )
        self.attempts.note(link.peer, attempt)

    def _own_key_dialled(self, where: HostPort) -> None:
        self.table.rivals.note_own_key(address_of(*where).location)

    def _network_changed(self, reason: str) -> None:
        self._own.is_told = self.network.is_told
        self._own.forget()
        self._addresses.network_changed()
        self.binding.network_changed()
        self.revalidation.start()
        self.dialler.network_changed()
        self.keeper.network_changed()

    def _on_bound_later(self, where: HostPort) -> None:
        self._own.forget()
        if not self.config.port:
            self._tasks.spawn(self.store.listened(where[1]), "save the port")

    def _address_misbehaved(self, host: str, detail: str) -> None:
        self.guard.report_address(host, Offence.FAILED_HANDSHAKE, detail)

    async def _take_up_store(self) -> None:
        """The database of earlier runs became available."""
        await self.banning.restore()
        await self._keep_wanted()

    async def _keep_wanted(self) -> None:
        for known in await self.store.all():
            if known.wanted:
                self.keeper.keep(known.peer, [parse_address(known.address)])

    async def close(self) -> None:
        """Shut down in order: stop accepting, disconnect peers, then end the tasks."""
        await self._listener.close()
        for peer in self.table:
            await self.store.seen(peer.id, self._ctx.clock.time())
        self.table.close()
        await self._tasks.close()

    def _greeting(self) -> Mapping[str, Any]:
        addresses = self._told_addresses()
        return {"v": 1, "addresses": addresses, "name": self._ctx.node_name}

    def _told_addresses(self) -> list[str]:
        return list(self.addresses())[:MAX_TOLD_ADDRESSES]

    def _readdressed(self, peer: PeerId, listed: object) -> None:
        if self.table.note_told(peer, listed):
            self.channels.readdressed(peer)

    def _peer_up(self, peer: Peer) -> None:
        self._addresses.news.peer_up(peer.id, peer.best.greeting.get("addresses", ()))
        self.channels.peer_up(peer.id)

    def _peer_down(self, peer: PeerId, reason: str) -> None:
        self._addresses.news.peer_down(peer)
        self.channels.peer_down(peer)
        self._tasks.spawn(self.store.seen(peer, self._ctx.clock.time()), f"saw {short(peer)}")

    def addresses_of(self, peer: PeerId) -> Sequence[str]:
        """The addresses at which a node can be dialled, as multiaddrs with /p2p."""
        if peer == self._me:
            return self.addresses()
        return [str(address) for address in self.table.told(peer)]

    # aitorrentd.api.Transport

    @property
    def node_id(self) -> PeerId:
        """This node's own id."""
        return self._me

    @property
    def bound(self) -> Sequence[tuple[str, int]]:
        """Bound IP addresses and ports."""
        return self.binding.bound

    @property
    def announced(self) -> Sequence[str]:
        """The addresses in `announce`."""
        return self.config.announce

    @property
    def is_masking(self) -> bool:
        """Whether outgoing connections are disguised."""
        return self.config.masking

    def addresses(self) -> Sequence[str]:
        """Where this node listens, as multiaddrs with /p2p; with actual ports."""
        return [str(address) for address in self._own.told()]

    async def bootstrap_addresses(self) -> Sequence[str]:
        """The configured bootstrap addresses, with those that its address files list now."""
        found: list[str] = []
        for text in self.config.bootstrap:
            if not is_address_file(text):
                found.append(text)
                continue
            try:
                found += map(str, await asyncio.to_thread(read_address_file, Path(text)))
            except (InvalidParams, Unavailable) as e:
                self._ctx.log.debug("bootstrap addresses: %s", e.message)
        return found

    def network_key(self, purpose: str) -> bytes:
        """32 bytes for `purpose`, the same on each node of this network and on no other."""
        return network_key(self._ctx.network, self.config.psk_bytes(), purpose)

    def peers(self) -> Sequence[PeerView]:
        """Connected peers, in order of connection."""
        now = self._ctx.clock.monotonic()
        return [peer.view(now) for peer in self.table]

    def peer(self, peer: PeerId) -> PeerView | None:
        """The peer, or None if it is not connected."""
        found = self.table.get(peer)
        return found.view(self._ctx.clock.monotonic()) if found else None

    async def connect(self, address: str, *, timeout_s: float = 10.0) -> PeerView:
        """Connect to `address`; maintain the channel until `disconnect` or an hour unreachable."""
        target = parse_address(address)
        peer = await self.dialler.dial(target, timeout_s)
        await self.store.dialled(peer.id, target.location, wanted=True, now=self._ctx.clock.time())
        self.keeper.keep(peer.id, [target])
        return peer.view(self._ctx.clock.monotonic())

    async def dial_once(self, address: str, *, timeout_s: float = 10.0) -> PeerView:
        """Like `connect`, but do not redial when the channel is lost."""
        peer = await self.dialler.dial(parse_address(address), timeout_s)
        return peer.view(self._ctx.clock.monotonic())

    async def disconnect(self, peer: PeerId) -> None:
        """Close the channel to `peer` and do not redial; a no-op if there is none."""
        self.keeper.release(peer)
        await self.store.unwant(peer)
        self.table.disconnect(peer, "disconnected by its operator")

    async def open_stream(
        self,
        peer: PeerId,
        protocol: str,
        *,
        timeout_s: float = 10.0,
        priority: Priority = Priority.CONTROL,
        addresses: Sequence[str] = (),
    ) -> Stream:
        """Open a stream to `peer`, dialling its known addresses and `addresses` if necessary."""
        if not is_protocol_id(protocol):
            raise InvalidParams("a protocol id has 1 to 128 visible ASCII characters")
        if peer == self._me:
            return self._server.open_local(protocol, priority)
        await self._pace(peer, timeout_s)
        try:
            found = self.table.get(peer) or await self.dialler.connect(peer, addresses, timeout_s)
        except (TimedOut, Unavailable):
            self.channels.missed(peer)
            raise
        return found.best.open(protocol, priority)

    async def _pace(self, peer: PeerId, timeout_s: float) -> None:
        """Delay so that streams open no faster than the peer accepts them.

        Raises:
            Busy: the delay would exceed `timeout_s`.
        """
        pace = self._paces.of(peer)
        now = self._ctx.clock.monotonic()
        if pace.due_s(now) > timeout_s:
            raise Busy(f"too many streams to {short(peer)} are waiting to open; try again later")
        if wait_s := pace.spend(now):
            await asyncio.sleep(wait_s)

    async def ping(self, peer: PeerId, *, timeout_s: float = 10.0) -> float:
        """Measured round-trip time in seconds; 0 for the node itself."""
        if peer == self._me:
            return 0.0
        return await self._connected(peer).best.ping(timeout_s)

    async def broadcast(self, text: str) -> int:
        """Send at most 4096 characters to every connected peer; return how many accepted it."""
        return await self._messages.broadcast(text, [peer.id for peer in self.table])

    def _connected(self, peer: PeerId) -> Peer:
        found = self.table.get(peer)
        if found is None:
            raise Unavailable(f"{short(peer)} is not connected")
        return found


@asynccontextmanager
async def running(ctx: PluginContext) -> AsyncIterator[TransportService]:
    """Run the service, from listening to orderly shutdown.

    Raises:
        Unavailable: an address cannot be bound, for a permanent cause.
    """
    async with opened_store(ctx) as store:
        service = TransportService(ctx, ctx.config, store)
        direct = DirectDialer(service.paths)
        with (
            service.dialers.added(direct.name, direct),
            service.directory.sources.added("channels", service.channels),
        ):
            try:
                await service.start()
                yield service
            finally:
                await service.close()
