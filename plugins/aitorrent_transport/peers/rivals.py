"""Rival channels of one peer: two processes with its key, or two channels to one process.

Two nodes that dial each other at the same time get two channels. Both keep the one whose dialer has
the smaller peer id (for the same dialer: the smaller handshake hash), so they agree without
negotiation. The other channel opens no new streams and closes when its last stream ends. An older
channel may be dead unnoticed, so it is pinged before the decision; until it answers, the newer one
is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from aitorrent_transport.peers.duplicates import HOW_TO_END, Duplicates, Sighting
from aitorrent_transport.peers.peer import Peer, location
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.stream_state import StreamState
from aitorrentd.api import Busy, InvalidParams, PeerId, PluginContext, TimedOut, Unavailable, short
from aitorrentd.api.network.addresses import address_of
from aitorrentd.api.tasks import Tasks

PROBE_S: Final = 3.0
MAX_CHANNELS: Final = 3


class Rivals:
    """Decides between rival channels.

    `add(channel, name)` adds the channel of a process that replaces another one;
    `serve(channel, state)` serves a stream. `on_moved(peer)` asks to reopen long-lived streams to
    the peer: their channel may be about to close.
    """

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        *,
        add: Callable[[Channel, str], None],
        serve: Callable[[Channel, StreamState], None],
    ) -> None:
        self.duplicates = Duplicates()
        self.on_moved: Callable[[PeerId], None] = lambda peer: None
        self._ctx = ctx
        self._tasks = tasks
        self._add = add
        self._serve = serve
        self._me = ctx.identity.peer_id
        self._contested: dict[Channel, asyncio.Task[None]] = {}

    # Two processes with one key

    def __iter__(self) -> Iterator[Channel]:
        """Channels that wait for a decision and belong to no peer yet."""
        return iter(list(self._contested))

    async def decided(self, channel: Channel) -> None:
        """Wait until it is decided whether `channel` is used; at once if it has no rival."""
        if (verdict := self._contested.get(channel)) is not None:
            await asyncio.wait({verdict})

    def contest(self, rival: Channel, channel: Channel, name: str) -> None:
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
            await rival.probe(PROBE_S)
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
        self._note(channel.peer, first, second)
        rival.tell_duplicate(second)
        channel.tell_duplicate(first)
        channel.close(f"another node with this key is connected from {first}")

    def note_own_key(self, where: str) -> None:
        """Record that this node dialled, or was dialled by, another process with its own key."""
        self._note(self._me, "this node", where)

    def note_told(self, channel: Channel, where: str) -> None:
        """Record that a peer sees another node with this node's key at `where`."""
        self._note(self._me, _observed(channel), where, channel.peer)

    def _note(self, peer: PeerId, first: str, second: str, reporter: PeerId | None = None) -> None:
        sighting = Sighting(peer, first, second, reporter, self._ctx.clock.monotonic())
        if self.duplicates.note(sighting):
            self._ctx.log.warning("%s; %s", sighting.text, HOW_TO_END)

    # Two channels to one process

    def second_channel(self, peer: Peer, channel: Channel) -> None:
        """Add another channel to the peer, and keep the better one once the older ones answer."""
        older = [c for c in peer.channels if not c.suspect]
        peer.channels.append(channel)
        for other in older:
            other.suspect = True
            self._tasks.spawn(self._probe(peer, other), f"probe {short(peer.id)}")
        if len(peer.channels) > MAX_CHANNELS:
            peer.channels[0].close("too many channels between two nodes")

    async def _probe(self, peer: Peer, channel: Channel) -> None:
        try:
            await channel.probe(PROBE_S)
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


def _observed(channel: Channel) -> str:
    """Where the peer sees this node, as a multiaddr; a claim, which need not be an address."""
    try:
        return address_of(*(channel.link.observed or ("", 0))).location
    except InvalidParams:
        return "this node"
