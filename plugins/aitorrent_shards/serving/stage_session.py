"""A session that this node computes for a coordinator, possibly itself.

It lives as long as its control stream. Its input arrives over hop streams from one given peer, goes
through the worker, and over a hop stream to the next stage; sent messages are kept, so that the
next stage can be replaced at any time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.hops.receiver import FAILED, HopReceiver
from aitorrent_shards.hops.sender import HopMessage, HopSender
from aitorrent_shards.metrics import ShardsMetrics
from aitorrent_shards.protocol.messages import (
    MAX_CHUNK,
    MAX_CONTROL_BYTES,
    MAX_VOCAB,
    Hello,
    Link,
    Open,
    Ping,
    Prev,
    Reach,
    WantMore,
    layers_us,
    parse_request,
    parse_step,
    request_id,
)
from aitorrent_shards.serving.holder import Holder, allowed_s
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Frame,
    InvalidParams,
    PeerGone,
    PeerId,
    PluginError,
    ProtocolError,
    Stream,
    Transport,
    Unavailable,
    frame_head,
    read_frame,
)
from aitorrentd.api.tasks import Tasks

LAST_WORDS_S: Final = 5.0
MAX_SLOW_REQUESTS: Final = 4


@dataclass(frozen=True, slots=True)
class SessionView:
    """A snapshot of a session."""

    coordinator: PeerId
    prev: PeerId
    model: str
    start: int
    end: int
    positions: int
    max_positions: int
    journal_bytes: int


class _UnderWay(NamedTuple):
    """The frame that the worker is computing."""

    began: int
    "time.perf_counter_ns() at its arrival."
    header: dict[str, Any]
    "Header of the outgoing frame, without the time of these layers."
    wanted: bool
    "Whether a frame is sent on."


class StageSession(HopReceiver):
    """One answer's path through the layers of this node."""

    def __init__(
        self,
        opened: Open,
        holder: Holder,
        control: Stream,
        transport: Transport,
        config: ShardsConfig,
        log: logging.Logger,
        overhead_us: deque[int],
        metrics: ShardsMetrics,
    ) -> None:
        row = holder.row_bytes
        self._row_in = row if opened.start else 4
        super().__init__(opened.prev, max_tail_bytes=MAX_CHUNK * self._row_in)
        self.opened, self.holder = opened, holder
        self.journal_bytes = 8 * MAX_VOCAB if opened.last else opened.max_positions * row
        "Maximum size of the journal; a last stage keeps only a single answer."
        self._config, self._control, self._log = config, control, log
        self.said_all = False
        "The control stream was closed cleanly; a reset would overtake the last message."
        self._tasks = Tasks(log)
        self._saying = asyncio.Lock()
        self._slow_requests = 0
        self._failed: asyncio.Future[AitorrentError] = asyncio.get_running_loop().create_future()
        self._overhead_us = overhead_us
        self._metrics = metrics
        self._under_way = _UnderWay(0, {}, wanted=False)
        self.sender = HopSender(
            transport,
            self._tasks,
            self._unlinked,
            max_bytes=self.journal_bytes,
            last_only=opened.last,
        )

    def view(self) -> SessionView:
        """The session for display and tests."""
        return SessionView(
            self._control.peer,
            self.prev,
            self.holder.entry.name,
            self.opened.start,
            self.opened.end,
            self.have,
            self.opened.max_positions,
            self.sender.journal.size_bytes,
        )

    def receive(self, frame: Frame) -> bool:
        """Compute a frame's positions and send them on; positions already computed are skipped."""
        began = time.perf_counter_ns()
        pos, n, want = parse_step(frame.header)
        end, last = pos + n, self.opened.last
        if end <= self.have:
            return True
        if pos != self.have or end > self.opened.max_positions:
            raise ProtocolError(
                f"positions {pos}-{end} after {self.have} of at most {self.opened.max_positions}"
            )
        if len(frame.tail) != n * self._row_in:
            raise ProtocolError(f"{n} positions take {n * self._row_in} bytes")
        asked = want if last and end > self.sender.have else None
        self.holder.submit(
            {
                "op": "step",
                "session": self.opened.session,
                "pos": pos,
                "n": n,
                "want": {"k": asked.k, "temperature": asked.temperature} if asked else None,
            },
            frame.tail,
            self._computed,
            timeout_s=allowed_s(self._config.step_timeout_s, n),
        )
        # The layers are running: nothing waits for the work from here on.
        header: dict[str, Any] = {"p": pos, "n": n, "us": layers_us(frame.header)}
        if want is not None and not last:
            header["w"] = (want.k, want.temperature)
        self._under_way = _UnderWay(began, header, wanted=not last or asked is not None)
        return False

    def _computed(self, answer: Frame | AitorrentError) -> None:
        """Send the worker's answer on, if required, and take the next frame."""
        try:
            if isinstance(answer, AitorrentError):
                raise answer
            self._send_on(answer)
        except AitorrentError as e:
            self.received(e)
        except Exception:
            self.received(PluginError(FAILED))
            raise
        else:
            self.received()

    def _send_on(self, answer: Frame) -> None:
        began, header, wanted = self._under_way
        pos, n = header["p"], header["n"]
        self.have = pos + n
        took = answer.header.get("took_us")
        took_us = took if type(took) is int else 0
        self._metrics.step(n, took_us)
        if wanted:
            header["us"] += took_us
            if self.opened.last:
                header["k"], header["lse"] = answer.header.get("k"), answer.header.get("lse")
            self.sender.send(HopMessage(pos, n, header, answer.tail))
            if n == 1:
                self.holder.measured(took_us)
                self._overhead_us.append((time.perf_counter_ns() - began) // 1000 - took_us)

    def broke(self, error: AitorrentError) -> None:
        """The input failed, so the session fails."""
        self.fail(error)

    def fail(self, error: AitorrentError) -> None:
        """End the session and tell the coordinator why."""
        if not self._failed.done():
            self._failed.set_result(error)

    def _unlinked(self, reason: str) -> None:
        event = {"event": "unlinked", "error": Unavailable(reason).as_map()}
        self._tasks.spawn(self._say(event), "shards-unlinked")

    async def serve(self) -> None:
        """Answer control requests until the coordinator closes the stream or the session fails."""
        reader = self._tasks.spawn(self._read(), "shards-control")
        ends: set[asyncio.Future[Any]] = {reader, self._failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await self._say({"event": "failed", "error": self._failed.result().as_map()})
                    await self._control.close()
                self.said_all = True
            except TimeoutError:
                self._log.debug("a coordinator does not read why its session failed")

    async def close(self) -> None:
        """Free everything that the session holds."""
        self.detach("the session is closed")
        self.sender.unlink("the session is closed")
        self._failed.cancel()
        await self._tasks.close()
        if not self.said_all:
            self._control.reset("the session is closed")

    async def _say(self, header: dict[str, Any], tail: bytes | memoryview = b"") -> None:
        try:
            async with self._saying:
                await self._control.write(frame_head(header, len(tail)))
                if tail:
                    await self._control.write(tail)
        except PeerGone:
            return  # `_read` notices it too

    async def _read(self) -> None:
        try:
            while True:
                frame = await read_frame(self._control, max_bytes=MAX_CONTROL_BYTES)
                await self._answer(frame.header)
        except PeerGone:
            return
        except AitorrentError as e:
            self.fail(e)

    async def _answer(self, header: dict[str, Any]) -> None:
        ident, request = request_id(header), parse_request(header)
        match request:
            case Ping():
                await self._say({"id": ident, "have": self.have, "queue": self.holder.queue})
            case Prev(peer):
                if peer != self.prev:
                    self.prev = peer
                    self.detach("another peer feeds the session")
                await self._say({"id": ident})
            case Link() | WantMore():
                if self._slow_requests >= MAX_SLOW_REQUESTS:
                    error = Busy("too many concurrent requests in this session")
                    await self._say({"id": ident, "error": error.as_map()})
                else:
                    self._slow_requests += 1
                    self._tasks.spawn(self._slow(ident, request), "shards-request")
            case Open() | Hello() | Reach():
                raise ProtocolError("the session is already open")

    async def _slow(self, ident: int, request: Link | WantMore) -> None:
        """Requests that wait for others; pings are answered meanwhile."""
        try:
            if isinstance(request, Link):
                have = await self.sender.link(request, timeout_s=self._config.link_timeout_s)
                await self._say({"id": ident, "have": have})
                await self.sender.flush()
            else:
                header, tail = await self._more(request)
                await self._say({"id": ident, **header}, tail)
        except AitorrentError as e:
            await self._say({"id": ident, "error": e.as_map()})
        finally:
            self._slow_requests -= 1

    async def _more(self, request: WantMore) -> tuple[dict[str, Any], bytes | memoryview]:
        if not self.opened.last:
            raise InvalidParams("only the last stage has candidates")
        answer = await self.holder.request(
            {
                "op": "candidates",
                "session": self.opened.session,
                "k": request.want.k,
                "temperature": request.want.temperature,
            },
            timeout_s=self._config.step_timeout_s,
        )
        header = answer.header
        return {"p": header["pos"], **{key: header[key] for key in ("n", "k", "lse")}}, answer.tail
