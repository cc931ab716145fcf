"""The table of connected peers: admission, channels, and resolving duplicate channels to a peer.

Two nodes that dial each other at the same time get two channels. Both keep the one whose dialer has
the smaller peer id (for the same dialer: the smaller handshake hash), so they agree without
negotiation. The other channel opens no new streams and closes when its last stream ends. An older
channel may be dead unnoticed, so it is pinged before the decision; until it answers, the newer one
is used.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from aitorrent_transport.peers.duplicates import HOW_TO_END, Duplicates, Sighting
from aitorrent_transport.peers.names import told_name
from aitorrent_transport.streams.channel import Channel, SecureLink
from aitorrent_transport.streams.stream_state import StreamState
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import (
    Busy,
    Denied,
    InvalidParams,
    PeerCandidate,
    PeerConnected,
    PeerDisconnected,
    PeerGone,
    PeerId,
    PeerView,
    PluginContext,
    ProtocolError,
    TimedOut,
    Unavailable,
    Verdict,
    short,
)
from aitorrentd.api.limits import BanList
from aitorrentd.api.network.addresses import Address, address_of, is_loopback, parse_address
from aitorrentd.api.tasks import Tasks

GREETING_S: Final = 5.0
PROBE_S: Final = 3.0
MAX_PENDING: Final = 64
MAX_CHANNELS: Final = 3
MAX_TOLD_ADDRESSES: Final = 16
MAX_REMEMBERED: Final = 1024


class Peer:
    """A connected peer and its channels."""

    def __init__(self, peer: PeerId, me: PeerId, now: float) -> None:
        self.id = peer
        self.since = now
        self.name = ""
        "The name it claims."
        self.channels: list[Channel] = []
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        "Resolves, with the reason, when the last channel ended."
        self._me = me

    def _rank(self, channel: Channel) -> tuple[bool, str, bytes]:
        dialer = self._me if channel.link.outbound else self.id
        return channel.suspect, dialer, channel.link.handshake_hash

    def of_other_instance(self, channel: Channel) -> Channel | None:
        """A channel to a different process than that of `channel`, or None."""
        told = channel.link.instance
        others = (c for c in self.channels if b"" != c.link.instance != told != b"")
        return next(others, None)

    def has_live(self, instance: bytes) -> bool:
        """Whether a channel not under suspicion goes to this process of the peer."""
        return any(not c.suspect and c.link.instance == instance for c in self.channels)

    @property
    def best(self) -> Channel:
        """The channel on which to open streams.

        Raises:
            PeerGone: the last channel ended.
        """
        if not self.channels:
            raise PeerGone(
                f"{short(self.id)} left: {self.gone.result() if self.gone.done() else ''}"
            )
        return min(self.channels, key=self._rank)

    def view(self, now: float) -> PeerView:
        """A snapshot of the peer."""
        best = self.best
        return PeerView(
            id=self.id,
            address=location(best.link),
            outbound=best.link.outbound,
            connected_s=now - self.since,
            rtt_s=best.srtt_s,
            streams=sum(len(c.mux) for c in self.channels),
            bytes_in=sum(c.link.bytes_in for c in self.channels),
            bytes_out=sum(c.link.bytes_out for c in self.channels),
            agent=best.link.agent,
            name=self.name,
        )


def location(link: SecureLink) -> str:
    """The remote address of a link, as a multiaddr without /p2p."""
    return address_of(*link.remote[:2]).location


class PeerTable:
    """Connected peers. `on_up(peer)` and `on_down(peer, reason)` are called at each change.

    `on_moved(peer)` asks to reopen long-lived streams to the peer: their channel may be about to
    close.
    """

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        *,
        max_peers: int,
        keepalive_s: float,
        greeting: Callable[[], Mapping[str, Any]],
        serve: Callable[[Channel, StreamState], None],
    ) -> None:
        self.bans = BanList()
        self.duplicates = Duplicates()
        self.on_stalled: Callable[[str, int], None] = lambda host, port: None
        self.on_up: Callable[[Peer], None] = lambda peer: None
        self.on_down: Callable[[PeerId, str], None] = lambda peer, reason: None
        self.on_moved: Callable[[PeerId], None] = lambda peer: None
        self._ctx = ctx
        self._tasks = tasks
        self._max_peers = max_peers
        self._keepalive_s = keepalive_s
        self._greeting = greeting
        self._serve = serve
        self._budget = WindowBudget()
        self._me = ctx.identity.peer_id
        self._peers: dict[PeerId, Peer] = {}
        self._pending: dict[Channel, None] = {}
        self._contested: dict[Channel, asyncio.Task[None]] = {}
        self._told: OrderedDict[PeerId, tuple[Address, ...]] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        return len(self._peers)

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
        return self._told.get(peer, ())

    # Joining

    def admit(self, link: SecureLink) -> Channel:
        """Start a channel on a link; the peer is connected once it has greeted.

        Raises:
            Denied, Busy: the peer is refused; the link is closed with the reason.
        """
        try:
            self._check(link)
        except (Denied, Busy) as e:
            link.on_lost = lambda reason: None
            link.close(e.message)
            raise
        channel = Channel(
            link,
            clock=self._ctx.clock,
            budget=self._budget,
            keepalive_s=self._keepalive_s,
            greeting=self._greeting(),
        )
        channel.on_stream = self._serve
        channel.on_closed = self._on_closed
        channel.on_greeted = self._on_greeted
        channel.on_duplicate = self._on_duplicate
        self._pending[channel] = None
        inbound = [c for c in self._pending if not c.link.outbound]
        if len(inbound) > MAX_PENDING:
            # An honest peer greets at once, so drop the one that has been silent longest.
            inbound[0].close("no greeting, and others wait")
        channel.start()
        return channel

    def _check(self, link: SecureLink) -> None:
        now = self._ctx.clock.monotonic()
        if self._closed:
            raise Busy("this node is shutting down")
        left_s = self.bans.left_s(link.peer, now)
        if left_s:
            raise Denied(f"banned for another {left_s:.0f} s: {self.bans.reason(link.peer)}")
        known = link.peer in self._peers
        if not known:
            self._check_room()
        verdict = self._ctx.decide(
            "aitorrent_admit_peer",
            peer=PeerCandidate(link.peer, location(link), link.outbound, link.agent),
        )
        if isinstance(verdict, Verdict) and not verdict.admit:
            raise Denied(f"not admitted: {verdict.reason or 'no reason given'}")

    def _check_room(self) -> None:
        if len(self._peers) >= self._max_peers:
            raise Busy(f"this node has reached max_peers ({self._max_peers}); try again later")

    async def adopt(self, link: SecureLink, timeout_s: float = GREETING_S) -> Peer:
        """The peer at the other end of a link that this node dialled.

        Raises:
            Unavailable: the peer refused the channel. Denied, Busy: this node refused it.
        """
        channel = self.admit(link)
        try:
            await channel.greeted(timeout_s)
        except TimedOut:
            raise
        except Unavailable as e:
            hint = (
                "; if the network has a pre-shared key, check that both nodes have the same"
                if "cut" in e.message
                else ""
            )
            raise Unavailable(f"refused right after the handshake: {e.message}{hint}") from None
        except asyncio.CancelledError:
            channel.close("gave up")
            raise
        if (verdict := self._contested.get(channel)) is not None:
            await asyncio.wait({verdict})
        peer = self._peers.get(link.peer)
        if channel.closed is not None and peer is not None and channel not in peer.channels:
            raise Unavailable(f"{short(link.peer)} there: {channel.closed}")
        if peer is None:
            raise Unavailable(f"{short(link.peer)} connected and then disconnected")
        return peer

    def accept(self, link: SecureLink) -> None:
        """Accept a link that a peer dialled; the peer has a limited time to greet."""
        try:
            channel = self.admit(link)
        except (Denied, Busy) as e:
            self._ctx.log.debug("refused %s at %s: %s", short(link.peer), link.remote, e.message)
            return
        self._tasks.spawn(self._await_greeting(channel), f"greeting {short(link.peer)}")

    async def _await_greeting(self, channel: Channel) -> None:
        try:
            await channel.greeted(GREETING_S)
        except Unavailable as e:
            self._ctx.log.debug("%r did not greet: %s", channel, e.message)
        except TimedOut as e:
            self._ctx.log.debug("%r: %s", channel, e.message)

    def _on_greeted(self, channel: Channel, greeting: Mapping[str, Any]) -> None:
        self._pending.pop(channel, None)
        self._remember(channel, greeting)
        name = told_name(greeting.get("name"))
        peer = self._peers.get(channel.peer)
        rival = peer.of_other_instance(channel) if peer is not None else None
        if rival is not None:
            self._contest(rival, channel, name)
        else:
            self._add(channel, name)

    def _add(self, channel: Channel, name: str) -> None:
        """Add a channel that has greeted to its peer."""
        peer = self._peers.get(channel.peer)
        if peer is not None:
            peer.name = name
            self._second_channel(peer, channel)
            return
        try:
            self._check_room()
        except Busy as e:
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

    def _remember(self, channel: Channel, greeting: Mapping[str, Any]) -> None:
        listed = greeting.get("addresses")
        told = told_addresses(listed, channel.peer, channel.link.remote[0])
        self._told[channel.peer] = told
        self._told.move_to_end(channel.peer)
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)

    # Two nodes with one key

    def _contest(self, rival: Channel, channel: Channel, name: str) -> None:
        """Another process of a connected peer greeted: does the first one still answer?

        Until that is known, the newer channel is not used and its streams wait: a restarted node
        waits at most one ping timeout, and a copy of a live node changes nothing.
        """
        if sum(c.peer == channel.peer for c in self._contested) >= MAX_CHANNELS:
            channel.close("too many channels between two nodes")
            return
        held: list[StreamState] = []
        channel.on_stream = lambda _, state: held.append(state)
        verdict = self._tasks.spawn(
            self._decide(rival, channel, name, held), f"contest {short(channel.peer)}"
        )
        self._contested[channel] = verdict
        verdict.add_done_callback(lambda _: self._contested.pop(channel, None))

    async def _decide(
        self, rival: Channel, channel: Channel, name: str, held: list[StreamState]
    ) -> None:
        try:
            await rival.ping(PROBE_S)
        except TimedOut:
            rival.lose("no answer, and the peer reconnected")
        except (Unavailable, Busy):
            pass
        if rival.closed is None:
            self._reject(rival, channel)
        elif channel.closed is None:
            self._add(channel, name)
            channel.on_stream = self._serve
            for state in held:
                self._serve(channel, state)

    def _reject(self, rival: Channel, channel: Channel) -> None:
        first, second = location(rival.link), location(channel.link)
        now = self._ctx.clock.monotonic()
        sighting = Sighting(channel.peer, first, second, None, now)
        if self.duplicates.note(sighting):
            self._ctx.log.warning("%s; %s", sighting.text, HOW_TO_END)
        rival.tell_duplicate(second)
        channel.tell_duplicate(first)
        channel.close(f"another node with this key is connected from {first}")

    def note_own_key(self, where: str) -> None:
        """Record that a dial reached another process with this node's own key."""
        sighting = Sighting(self._me, "this node", where, None, self._ctx.clock.monotonic())
        if self.duplicates.note(sighting):
            self._ctx.log.warning("%s; %s", sighting.text, HOW_TO_END)

    def _on_duplicate(self, channel: Channel, where: str) -> None:
        observed = channel.link.observed
        here = address_of(*observed).location if observed else "this node"
        now = self._ctx.clock.monotonic()
        sighting = Sighting(self._me, here, where, channel.peer, now)
        if self.duplicates.note(sighting):
            self._ctx.log.warning("%s; %s", sighting.text, HOW_TO_END)

    # Two channels to one peer

    def _second_channel(self, peer: Peer, channel: Channel) -> None:
        older = [c for c in peer.channels if not c.suspect]
        peer.channels.append(channel)
        for other in older:
            other.suspect = True
            self._tasks.spawn(self._probe(peer, other), f"probe {short(peer.id)}")
        if len(peer.channels) > MAX_CHANNELS:
            peer.channels[0].close("too many channels between two nodes")

    async def _probe(self, peer: Peer, channel: Channel) -> None:
        try:
            await channel.ping(PROBE_S)
        except TimedOut:
            channel.lose("no answer, and the peer reconnected")
            return
        except (Unavailable, Busy):
            return
        channel.suspect = False
        alive = [c for c in peer.channels if not c.suspect]
        for other in alive:
            if other is not peer.best and not other.retired_here:
                other.retire()
                self.on_moved(peer.id)

    # Leaving

    def disconnect(self, peer: PeerId, reason: str) -> None:
        """End every channel to `peer`."""
        entry = self._peers.get(peer)
        contested = [c for c in self._contested if c.peer == peer]
        for channel in [*contested, *(entry.channels if entry else ())]:
            channel.close(reason)

    def _on_closed(self, channel: Channel, reason: str, fault: ProtocolError | None) -> None:
        self._pending.pop(channel, None)
        if channel.stalled and channel.link.outbound:
            self.on_stalled(*channel.link.remote[:2])
        if fault is not None:
            self.bans.ban(channel.peer, fault.message, self._ctx.clock.monotonic())
            self._ctx.log.warning(
                "%s broke the protocol and is banned temporarily: %s",
                short(channel.peer),
                fault.message,
            )
        peer = self._peers.get(channel.peer)
        if peer is None or channel not in peer.channels:
            return
        peer.channels.remove(channel)
        if fault is not None:
            for other in list(peer.channels):
                other.close("protocol error on another channel")
        if not peer.channels and self._peers.get(peer.id) is peer:
            del self._peers[peer.id]
            self._ctx.log.info("disconnected %s: %s", short(peer.id), reason)
            self._ctx.publish(PeerDisconnected(peer.id, reason))
            if not peer.gone.done():
                peer.gone.set_result(reason)
            self.on_down(peer.id, reason)

    def close(self) -> None:
        """End every channel and admit no more peers."""
        self._closed = True
        for channel in [*self._pending, *self._contested]:
            channel.close("the node is shutting down")
        for peer in list(self._peers):
            self.disconnect(peer, "the node is shutting down")


def told_addresses(listed: object, peer: PeerId, remote: str) -> tuple[Address, ...]:
    """Dial addresses of a peer, from its own list and the remote address of its channel.

    The list is untrusted: entries that are not addresses of this peer are dropped, as are loopback
    addresses from another machine.
    """
    found: dict[Address, None] = {}
    here = remote.startswith("127.") or remote == "::1"
    for text in listed[:MAX_TOLD_ADDRESSES] if isinstance(listed, list) else ():
        try:
            address = parse_address(text)
        except InvalidParams:
            continue
        if address.peer not in (None, peer):
            continue
        try:
            seen = address_of(remote, address.port, peer)
        except InvalidParams:
            seen = None
        if seen is not None and "%" not in remote:
            found.setdefault(seen)
        if here or not is_loopback(address.host):
            found.setdefault(address.of(peer))
    return tuple(found)[:MAX_TOLD_ADDRESSES]
