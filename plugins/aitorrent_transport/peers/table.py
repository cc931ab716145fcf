"""The table of connected peers: whom the node admits, and their channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from aitorrent_transport.peers.names import told_name
from aitorrent_transport.peers.peer import Peer, location
from aitorrent_transport.peers.rivals import Rivals
from aitorrent_transport.peers.told import ToldAddresses
from aitorrent_transport.protection.guard import Guard
from aitorrent_transport.protection.subnets import is_public, shares
from aitorrent_transport.routes.moves import Moves
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrent_transport.streams.stream_state import StreamState
from aitorrent_transport.streams.traffic import Traffic
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Denied,
    Offence,
    PeerCandidate,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    PeerRouteChanged,
    PluginContext,
    ProtocolError,
    TimedOut,
    Unavailable,
    Verdict,
    short,
)
from aitorrentd.api.network.addresses import Address
from aitorrentd.api.tasks import Tasks

GREETING_S: Final = 5.0
MAX_PENDING: Final = 64


class PeerTable:
    """Connected peers. `on_up(peer)` and `on_down(peer, reason)` are called at each change."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        *,
        guard: Guard,
        max_peers: int,
        peers_per_subnet: int,
        keepalive_s: float,
        greeting: Callable[[], Mapping[str, Any]],
        serve: Callable[[Channel, StreamState], None],
    ) -> None:
        self.rivals = Rivals(ctx, tasks, add=self._add, serve=serve)
        self.moves = Moves(ctx.identity.peer_id, find=self.get, begin=self.admit)
        self.moves.on_stalled = lambda link: self.on_stalled(*link.remote[:2])
        self.on_stalled: Callable[[str, int], None] = lambda host, port: None
        self.on_up: Callable[[Peer], None] = lambda peer: None
        self.on_down: Callable[[PeerId, str], None] = lambda peer, reason: None
        self.on_joined: Callable[[SecureLink, float, str], None] = lambda link, took_s, error: None
        "Called when it is clear whether a channel moves to a new link; the error is empty if so."
        self.on_readdressed: Callable[[PeerId], None] = lambda peer: None
        "Called when a peer's dial addresses change because its channel moved."
        self._ctx = ctx
        self._tasks = tasks
        self._guard = guard
        self._max_peers = max_peers
        self._peers_per_subnet = peers_per_subnet
        self._keepalive_s = keepalive_s
        self._greeting = greeting
        self._serve = serve
        self._budget = WindowBudget()
        self.traffic = Traffic()
        "What streams carried, by protocol."
        self._me = ctx.identity.peer_id
        self._peers: dict[PeerId, Peer] = {}
        self._pending: dict[Channel, None] = {}
        self._told = ToldAddresses()
        self._closed = False

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def pending(self) -> int:
        """Channels whose peer has not greeted yet."""
        return len(self._pending)

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def get(self, peer: PeerId) -> Peer | None:
        """The peer, or None if it is not connected."""
        return self._peers.get(peer)

    def dialled_at(self, where: str) -> Peer | None:
        """The connected peer that this node dialled at `where` (a multiaddr without /p2p)."""
        for peer in self._peers.values():
            if any(c.link.outbound and location(c.link) == where for c in peer.channels):
                return peer
        return None

    def told(self, peer: PeerId) -> Sequence[Address]:
        """The dial addresses that the peer announced; kept for the last thousand peers."""
        return self._told.of(peer)

    def note_told(self, peer: PeerId, listed: object) -> bool:
        """Note the list of addresses that a connected peer sent; return whether it is news."""
        entry = self._peers.get(peer)
        if entry is None or not entry.channels:
            return False
        before = self._told.of(peer)
        self._told.note(peer, listed, entry.best.link.route.host)
        return self._told.of(peer) != before

    # Joining

    def admit(self, link: SecureLink) -> Channel:
        """Start a channel on a link; the peer is connected once it has greeted.

        Raises:
            Denied, Busy: the peer is refused; the link is closed with the reason.
        """
        self._check_or_close(link)
        channel = Channel(
            link,
            clock=self._ctx.clock,
            budget=self._budget,
            traffic=self.traffic,
            keepalive_s=self._keepalive_s,
            greeting=self._greeting(),
        )
        channel.on_stream = self._serve
        channel.on_closed = self._on_closed
        channel.on_greeted = self._on_greeted
        channel.on_duplicate = self.rivals.note_told
        channel.on_moved = self._on_moved
        self._pending[channel] = None
        inbound = [c for c in self._pending if not c.link.outbound]
        if len(inbound) > MAX_PENDING:
            # An honest peer greets at once, so drop the one that has been silent longest.
            inbound[0].close("no greeting, and others wait")
        channel.start()
        return channel

    def _check_or_close(self, link: SecureLink) -> None:
        try:
            self._check(link)
        except (Denied, Busy) as e:
            link.on_lost = lambda reason: None
            link.close(e.message)
            raise

    def _check(self, link: SecureLink) -> None:
        if self._closed:
            raise Busy("this node is shutting down")
        self._guard.check(link.route.host, link.peer)
        known = link.peer in self._peers
        if not known:
            self._check_room(link)
        verdict = self._ctx.decide(
            "aitorrent_admit_peer",
            peer=PeerCandidate(link.peer, location(link), link.outbound, link.agent),
        )
        if isinstance(verdict, Verdict) and not verdict.admit:
            raise Denied(f"not admitted: {verdict.reason or 'no reason given'}")

    def _check_room(self, link: SecureLink) -> None:
        if len(self._peers) >= self._max_peers:
            raise Busy(f"this node has reached max_peers ({self._max_peers}); try again later")
        if link.outbound or not is_public(link.route.host):
            return
        _, subnet = shares(link.route.host)
        inbound = (c.link for peer in self for c in peer.channels if not c.link.outbound)
        if sum(shares(each.route.host)[1] == subnet for each in inbound) >= self._peers_per_subnet:
            raise Busy(
                f"this node has {self._peers_per_subnet} peers of {subnet}, its limit per subnet;"
                " try again later"
            )

    async def adopt(self, link: SecureLink, timeout_s: float = GREETING_S) -> Peer:
        """The peer at the other end of a link that this node dialled.

        Raises:
            Unavailable: the peer refused the channel. Denied, Busy: this node refused it.
        """
        channel: Channel | None = None
        try:
            channel = await self._begun(link)
            await channel.greeted(timeout_s)
        except TimedOut:
            raise
        except Unavailable as e:
            peer = self._peers.get(link.peer)
            if peer is not None and peer.has_as_good(link):
                return peer  # two upgrades raced, and the other one won
            hint = (
                "; if the network has a pre-shared key, check that both nodes use the same one"
                if "cut" in e.message
                else ""
            )
            raise Unavailable(f"refused right after the handshake: {e.message}{hint}") from None
        except asyncio.CancelledError:
            if channel is not None:
                channel.close("gave up")
            raise
        await self.rivals.decided(channel)
        peer = self._peers.get(link.peer)
        if channel.closed is not None and peer is not None and channel not in peer.channels:
            raise Unavailable(f"{short(link.peer)} there: {channel.closed}")
        if peer is None:
            raise Unavailable(f"{short(link.peer)} connected and then disconnected")
        return peer

    def accept(self, link: SecureLink) -> None:
        """Accept a link that a peer dialled; the peer has a limited time to greet."""
        try:
            channel = None if self.moves.concerns(link) else self.admit(link)
        except (Denied, Busy) as e:
            self._ctx.log.debug("refused %s at %s: %s", short(link.peer), location(link), e.message)
            return
        self._tasks.spawn(self._await_greeting(link, channel), f"greeting {short(link.peer)}")

    async def _await_greeting(self, link: SecureLink, channel: Channel | None) -> None:
        try:
            channel = channel or await self._begun(link)
            await channel.greeted(GREETING_S)
        except AitorrentError as e:
            self._ctx.log.debug("%s at %s: %s", short(link.peer), link.remote, e.message)

    async def _begun(self, link: SecureLink) -> Channel:
        """The channel of a new link: an ordinary one, or one that moved to it.

        Raises:
            Denied, Busy: this node refuses it. Unavailable, TimedOut: the link ended.
            ProtocolError: the peer violated the protocol.
        """
        if self.moves.concerns(link):
            self._check_or_close(link)
            began = self._ctx.clock.monotonic()
            try:
                channel = await self.moves.settle(link)
            except AitorrentError as e:
                if isinstance(e, ProtocolError):
                    self._guard.report(link.peer, Offence.PROTOCOL_ERROR, e.message)
                self.on_joined(link, self._ctx.clock.monotonic() - began, e.message)
                raise
            if channel is not None:
                peer = self._peers.get(link.peer)
                if peer is not None and channel in peer.channels:
                    self.on_joined(link, self._ctx.clock.monotonic() - began, "")
                return channel
        return self.admit(link)

    def _on_greeted(self, channel: Channel, greeting: Mapping[str, Any]) -> None:
        self._pending.pop(channel, None)
        self._told.note(channel.peer, greeting.get("addresses"), channel.link.route.host)
        name = told_name(greeting.get("name"))
        peer = self._peers.get(channel.peer)
        rival = peer.of_other_instance(channel) if peer is not None else None
        if rival is not None:
            self.rivals.contest(rival, channel, name)
        else:
            self._add(channel, name)

    def _add(self, channel: Channel, name: str) -> None:
        """Add a channel that has greeted to its peer."""
        peer = self._peers.get(channel.peer)
        if peer is not None:
            peer.name = name
            self.rivals.second_channel(peer, channel)
            return
        try:
            # Both may have changed since the handshake.
            self._guard.check(channel.link.route.host, channel.peer)
            self._check_room(channel.link)
        except (Busy, Denied) as e:
            channel.close(e.message)
            return
        peer = Peer(channel.peer, self._me, self._ctx.clock.monotonic())
        peer.name = name
        peer.channels.append(channel)
        self._peers[peer.id] = peer
        where, outbound = location(channel.link), channel.link.outbound
        self._ctx.log.info(
            "connected %s %s %s", short(peer.id), "at" if outbound else "from", where
        )
        self._ctx.publish(PeerConnected(peer.id, where, outbound))
        self.on_up(peer)

    def _on_moved(self, channel: Channel) -> None:
        """Both directions of a channel continue on another link."""
        peer, route = channel.peer, channel.link.route
        if reason := self._guard.refusal(route.host, peer):
            channel.close(reason)  # banned meanwhile
            return
        self._ctx.log.info("%s is now reached at %s (%s)", short(peer), route.location, route.name)
        self._ctx.publish(PeerRouteChanged(peer, route.name))
        if self._told.moved(peer, route.host):
            self.on_readdressed(peer)

    # Leaving

    def disconnect(self, peer: PeerId, reason: str) -> None:
        """End every channel to `peer`."""
        self.moves.drop(peer, reason)
        entry = self._peers.get(peer)
        contested = [c for c in self.rivals if c.peer == peer]
        for channel in [*contested, *(entry.channels if entry else ())]:
            channel.close(reason)

    def _on_closed(self, channel: Channel, reason: str, fault: ProtocolError | None) -> None:
        self._pending.pop(channel, None)
        if channel.stalled:
            self.on_stalled(*channel.link.remote[:2])
        if fault is not None:
            self._guard.report(channel.peer, Offence.PROTOCOL_ERROR, fault.message)
        peer = self._peers.get(channel.peer)
        if peer is None or channel not in peer.channels:
            return
        peer.channels.remove(channel)
        if fault is not None:
            self.moves.drop(peer.id, "protocol error on another channel")
            for other in list(peer.channels):
                other.close("protocol error on another channel")
        if not peer.channels and self._peers.get(peer.id) is peer:
            del self._peers[peer.id]
            self._ctx.log.info("disconnected %s: %s", short(peer.id), reason)
            self._ctx.publish(PeerDisconnected(peer.id, reason))
            if not peer.gone.done():
                peer.gone.set_result(reason)
            self.on_down(peer.id, reason)
        self.moves.channel_closed(channel)

    def close(self) -> None:
        """End every channel and admit no more peers."""
        self._closed = True
        self.moves.drop(None, "the node is shutting down")
        for channel in [*self._pending, *self.rivals]:
            channel.close("the node is shutting down")
        for peer in list(self._peers):
            self.disconnect(peer, "the node is shutting down")
