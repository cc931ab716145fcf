"""Admits sessions, and routes the streams of peers.

A stream is the control stream of a session, which is admitted or refused with a reason; or a hop,
which is handed to the session that expects it from this peer; or a question about a link.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Final

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.hops.receiver import HopReceiver
from aitorrent_shards.metrics import ShardsMetrics
from aitorrent_shards.protocol.messages import (
    MAX_CHUNK,
    MAX_CONTROL_BYTES,
    VERSION,
    Hello,
    Open,
    Reach,
    parse_hop,
    parse_request,
    request_id,
)
from aitorrent_shards.protocol.spans import Span
from aitorrent_shards.serving.holder import Holder, allowed_s
from aitorrent_shards.serving.reaching import LinkTester
from aitorrent_shards.serving.stage_session import SessionView, StageSession
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Conflict,
    InvalidParams,
    NotFound,
    PeerGone,
    PeerId,
    ProtocolError,
    Stream,
    Transport,
    Unavailable,
    encode_frame,
    read_frame,
)
from aitorrentd.api.limits import InUse
from aitorrentd.api.monitoring.metrics import Metric

FIRST_FRAME_S: Final = 10.0


class StageServer:
    """Serves `/ai-torrent/1/shards`: opens sessions, and hands hops to the expecting receivers."""

    def __init__(
        self,
        transport: Transport,
        config: ShardsConfig,
        log: logging.Logger,
        *,
        work: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`work` is entered for each session of a peer; an error it raises refuses the session."""
        self.holders: dict[str, Holder] = {}
        "Holders by digest."
        self.overhead_us: deque[int] = deque(maxlen=512)
        "Microseconds that single-token steps spent here outside the layers."
        self._transport, self._config, self._log = transport, config, log
        self._sessions: dict[bytes, StageSession] = {}
        self._receivers: dict[bytes, HopReceiver] = {}
        self._per_peer: InUse[PeerId] = InUse()
        self._journal_bytes = 0
        self._work = work
        self.metrics = ShardsMetrics()
        self._tester = LinkTester(transport)

    def spans(self) -> list[Span]:
        """The spans that this node's holders have loaded."""
        return [h.span for h in self.holders.values() if h.span is not None]

    def sessions(self) -> list[SessionView]:
        """The open sessions."""
        return [s.view() for s in self._sessions.values()]

    def measured(self) -> Iterator[Metric]:
        """The metrics now."""
        reserved = [session.opened.max_positions for session in self._sessions.values()]
        return self.metrics.read(reserved, self.spans())

    def expect(self, session: bytes, receiver: HopReceiver) -> None:
        """Hand hops for `session` to `receiver`."""
        self._receivers[session] = receiver

    def forget(self, session: bytes) -> None:
        """Accept no more hops for `session`."""
        self._receivers.pop(session, None)

    def holder_gone(self, holder: Holder, reason: str) -> None:
        """Fail the sessions of a holder whose worker ended."""
        for session in list(self._sessions.values()):
            if session.holder is holder:
                session.fail(Unavailable(reason))

    async def handle(self, stream: Stream) -> None:
        """Serve one stream of a peer until it ends."""
        try:
            async with asyncio.timeout(FIRST_FRAME_S):
                first = await read_frame(stream, max_bytes=MAX_CONTROL_BYTES)
            if first.header.get("op") == "hop":
                await self._hop(stream, parse_hop(first.header))
            else:
                await self._open(stream, first.header)
        except TimeoutError:
            stream.reset("no request arrived in time")
        except PeerGone:
            return
        except AitorrentError as e:
            self._log.debug("stream of %s refused: %s", stream.peer, e.message)
            stream.reset(e.code)

    async def _hop(self, stream: Stream, session: bytes) -> None:
        receiver = self._receivers.get(session)
        if receiver is None or receiver.prev != stream.peer:
            error = NotFound("no such session, or it accepts no input from you")
            await _say_last(stream, {"error": error.as_map()})
            return
        await receiver.run(stream)

    async def _open(self, stream: Stream, header: dict[str, Any]) -> None:
        ident, opened = request_id(header), parse_request(header)
        if isinstance(opened, (Hello, Reach)):
            await self._answer(stream, ident, opened)
            return
        if not isinstance(opened, Open):
            raise ProtocolError("a control stream begins with open")
        with ExitStack() as counted:
            try:
                # This node's own sessions belong to an answer that was already admitted.
                if stream.peer != self._transport.node_id:
                    counted.enter_context(self._work())
                session = self._admit(stream, opened)
            except AitorrentError as e:
                await _say_last(stream, {"id": ident, "error": e.as_map()})
                return
            await self._run(stream, session, ident)

    async def _answer(self, stream: Stream, ident: int, question: Hello | Reach) -> None:
        header: dict[str, Any] = {"id": ident}
        try:
            await self._tester.answer(stream.peer, question)
        except AitorrentError as e:
            header["error"] = e.as_map()
        await _say_last(stream, header)

    async def _run(self, stream: Stream, session: StageSession, ident: int) -> None:
        """Open an admitted session at the worker, serve it, and free it."""
        opened = session.opened
        try:
            try:
                await session.holder.request(
                    {
                        "op": "open",
                        "session": opened.session,
                        "start": opened.start,
                        "end": opened.end,
                        "max_positions": opened.max_positions,
                        "prompt": opened.prompt,
                    },
                    timeout_s=allowed_s(self._config.step_timeout_s, MAX_CHUNK),
                )
            except AitorrentError as e:
                await _say_last(stream, {"id": ident, "error": e.as_map()})
                session.said_all = True
                return
            session.holder.changed()
            await stream.write(encode_frame({"id": ident}))
            await session.serve()
        finally:
            await self._release(session)

    def _admit(self, stream: Stream, opened: Open) -> StageSession:
        """Admit a session within all limits, counted at once so that no other can take its
        place."""
        if opened.version != VERSION:
            raise Unavailable(
                f"this node speaks version {VERSION} of the shards protocol, not"
                f" {opened.version}; update the older node"
            )
        holder = self.holders.get(opened.digest)
        span = holder.span if holder else None
        if holder is None or span is None:
            raise NotFound("no layers of that model are loaded here")
        if span.dtype != opened.dtype or not span.start <= opened.start < opened.end <= span.end:
            raise NotFound(
                f"layers {span.start}-{span.end} in {span.dtype} are loaded here, not "
                f"{opened.start}-{opened.end} in {opened.dtype}"
            )
        if holder.rest.is_leaving and not self._may_go_on(stream.peer, holder):
            raise Unavailable("the layers of that model are about to leave memory here")
        if opened.last != (opened.end == span.layers):
            raise InvalidParams(f"the model has {span.layers} layers; `last` does not match")
        if opened.session in self._receivers:
            raise Conflict("the session already exists")
        if len(self._sessions) >= self._config.max_sessions:
            raise Busy(f"{self._config.max_sessions} sessions are open here; try again later")
        if self._per_peer.of(stream.peer) >= self._config.max_sessions_per_peer:
            raise Busy(f"you have {self._config.max_sessions_per_peer} sessions open here")
        session = StageSession(
            opened,
            holder,
            stream,
            self._transport,
            self._config,
            self._log,
            self.overhead_us,
            self.metrics,
        )
        needed = 0 if opened.last else session.journal_bytes
        if self._journal_bytes + needed > self._config.journal_budget:
            raise Busy("the activation memory is full; try again later")
        self._journal_bytes += needed
        self._per_peer.take(stream.peer, self._config.max_sessions_per_peer)
        self._sessions[opened.session] = session
        self._receivers[opened.session] = session
        holder.rest.take()
        return session

    def _may_go_on(self, peer: PeerId, holder: Holder) -> bool:
        """Whether a session may be part of an answer that uses these layers already."""
        return peer == self._transport.node_id or any(
            session.holder is holder and session.view().coordinator == peer
            for session in self._sessions.values()
        )

    async def _release(self, session: StageSession) -> None:
        ident = session.opened.session
        del self._sessions[ident]
        del self._receivers[ident]
        self._per_peer.release(session.view().coordinator)
        if not session.opened.last:
            self._journal_bytes -= session.journal_bytes
        try:
            await session.close()
            await session.holder.request(
                {"op": "close", "session": ident},
                timeout_s=allowed_s(self._config.step_timeout_s, MAX_CHUNK),
            )
        except AitorrentError as e:
            self._log.debug("the worker did not close a session: %s", e.message)
        finally:
            session.holder.rest.release()
        session.holder.changed()


async def _say_last(stream: Stream, header: dict[str, Any]) -> None:
    await stream.write(encode_frame(header))
    await stream.close()
