"""Serving streams that peers open: protocol handlers and their limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aitorrent_transport.protection.guard import Guard
from aitorrent_transport.protection.limits import STREAMS_BURST, STREAMS_PER_S
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.loopback import local_streams
from aitorrent_transport.streams.stream import ChannelStream
from aitorrent_transport.streams.stream_state import StreamState
from aitorrentd.api import (
    AitorrentError,
    Offence,
    PeerGone,
    PeerId,
    PluginChanged,
    PluginContext,
    Priority,
    ProtocolError,
    WireProtocol,
    short,
)
from aitorrentd.api.limits import InUse, PerPeer, TokenBucket
from aitorrentd.api.tasks import Tasks


class StreamServer:
    """Runs the handlers of wire protocols: the transport's own and other plugins'."""

    def __init__(
        self, ctx: PluginContext, tasks: Tasks, own: Iterable[WireProtocol], guard: Guard
    ) -> None:
        self._ctx = ctx
        self._guard = guard
        self._tasks = tasks
        self._own = {protocol.id: protocol for protocol in own}
        self._open: InUse[tuple[PeerId, str]] = InUse()
        self._running: dict[asyncio.Task[None], str] = {}
        now: Callable[[], float] = ctx.clock.monotonic
        self._opens = PerPeer(lambda: TokenBucket(STREAMS_PER_S, STREAMS_BURST, now()))

    def find(self, protocol: str) -> WireProtocol | None:
        """The current handler of `protocol`, or None."""
        if protocol in self._own:
            return self._own[protocol]
        return next((p for p in self._ctx.protocols() if p.id == protocol), None)

    def serve(self, channel: Channel, state: StreamState) -> None:
        """Serve a stream that a peer opened, or reset it with the reason."""
        if not self._opens.of(channel.peer).take(self._ctx.clock.monotonic()):
            reason = f"more than {STREAMS_PER_S:.0f} streams per second"
            channel.reset(state, reason)
            self._guard.report(channel.peer, Offence.FLOOD, reason)
            return
        refusal = self._begin(channel.peer, ChannelStream(state, channel, channel.peer), state)
        if refusal:
            channel.reset(state, refusal)

    def open_local(self, protocol: str, priority: Priority) -> ChannelStream:
        """A stream to this node itself; a refusal surfaces on the first read."""
        me = self._ctx.identity.peer_id
        near, far = local_streams(me, protocol, priority, self._ctx.clock.monotonic)
        refusal = self._begin(me, far, None)
        if refusal:
            far.reset(refusal)
        return near

    def _begin(self, peer: PeerId, stream: ChannelStream, state: StreamState | None) -> str:
        """Start the handler; return the reason for refusal, or the empty string."""
        protocol = self.find(stream.protocol)
        if protocol is None:
            return f"no such protocol {stream.protocol}"
        if not self._open.take((peer, protocol.id), protocol.max_streams):
            return f"more than {protocol.max_streams} streams of {protocol.id}"
        if state is not None:
            state.priority = protocol.priority
        task = self._tasks.spawn(self._run(protocol, stream), f"{protocol.id} {short(peer)}")
        self._running[task] = protocol.id
        task.add_done_callback(lambda done: self._ended(done, stream))
        return ""

    def _ended(self, task: asyncio.Task[None], stream: ChannelStream) -> None:
        self._open.release((stream.peer, self._running.pop(task)))
        if task.cancelled():
            stream.reset("the handler was stopped")

    async def _run(self, protocol: WireProtocol, stream: ChannelStream) -> None:
        try:
            await protocol.handler(stream)
            await stream.close()
        except PeerGone as e:
            stream.reset(e.message)
        except AitorrentError as e:
            self._ctx.log.debug("%s of %s: %s", protocol.id, short(stream.peer), e.message)
            stream.reset(e.message)
            if isinstance(e, ProtocolError) and protocol.id in self._own:
                detail = f"{protocol.id}: {e.message}"
                self._guard.report(stream.peer, Offence.INVALID_MESSAGE, detail)
        except Exception:
            # Fence: a bug in a handler ends its stream, never the channel.
            self._ctx.log.exception("the handler of %s failed", protocol.id)
            stream.reset("the handler failed")

    async def end_with_plugins(self) -> None:
        """Stop handlers whose plugin has stopped; runs until cancelled."""
        while True:
            with self._ctx.subscribe(PluginChanged) as changes:
                async for change in changes:
                    if not isinstance(change, PluginChanged) or change.state != "running":
                        self._stop_orphans()

    def _stop_orphans(self) -> None:
        alive = {p.id for p in self._ctx.protocols()} | set(self._own)
        for task, protocol in list(self._running.items()):
            if protocol not in alive:
                task.cancel()
