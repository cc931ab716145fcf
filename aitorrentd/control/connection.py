"""One control connection: bytes in, frames to its calls, frames out, with every buffer bounded.

A protocol rather than asyncio streams: a call answered at once costs no task and no wake-up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from aitorrentd.api.plugin import Role
from aitorrentd.control import framing
from aitorrentd.control.auth import Credentials, peer_credentials
from aitorrentd.control.call import encode_error
from aitorrentd.control.calls import Calls, Counters, MethodSource
from aitorrentd.control.polling import Eagerness, Polling, WakefulLoop
from aitorrentd.errors import (
    AitorrentError,
    Busy,
    Cancelled,
    ProtocolError,
    TimedOut,
    TooLarge,
    VersionMismatch,
)

WRITE_HIGH_BYTES: Final = 1024 * 1024
WRITE_LOW_BYTES: Final = 256 * 1024
PROGRESS_HIGH_BYTES: Final = 64 * 1024
READER_FRAME_BYTES: Final = 1024 * 1024
"What a caller with the role READ may send in one frame."
_LARGE_FRAME_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection waits for its caller, in seconds."""

    hello_s: float = 5.0
    frame_s: float = 30.0
    "How long a large frame may take to arrive."
    stall_s: float = 60.0
    "How long a caller may leave 1 MiB of answers unread."
    linger_s: float = 1.0
    "How long a closed connection may take to send its last bytes."


PATIENCE: Final = Patience()


class ConnectionOwner(Protocol):
    """What a connection needs from its server."""

    source: MethodSource
    counters: Counters
    log: logging.Logger
    agent: str
    group: str
    patience: Patience
    polling: Polling
    awake: WakefulLoop | None

    def role(self, caller: Credentials) -> Role:
        """The role of a caller."""

    def admit(self, connection: Connection) -> AitorrentError | None:
        """Admit a connection, or say why not."""

    def forget(self, connection: Connection) -> None:
        """Release an admitted connection."""

    def reserve(self, size_bytes: int) -> bool:
        """Reserve memory for a large frame that is still arriving; False if there is none."""

    def release(self, size_bytes: int) -> None:
        """Release reserved memory."""


class Connection(asyncio.Protocol):
    """The server's end of one connection; the Outbox of its calls."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self.role = Role.READ
        self.calls: Calls | None = None
        self.descriptor = -1
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._splitter = framing.FrameSplitter(framing.MAX_HELLO_BYTES)
        self._max_frame_bytes = framing.MAX_FRAME_BYTES
        self._is_greeted = False
        self._is_closing = False
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._progress: dict[int, bytes] = {}
        self._reserved_bytes = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._eagerness = Eagerness(owner.polling)
        self._answered_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Identify the caller; start waiting for the hello."""
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        try:
            caller = peer_credentials(transport.get_extra_info("socket"))
        except OSError:
            transport.abort()
            return
        self.role = role = self._owner.role(caller)
        self.descriptor = transport.get_extra_info("socket").fileno()
        refusal = self._owner.admit(self)
        if refusal is not None:
            self._refuse(refusal)
            return
        if role is Role.READ:
            self._max_frame_bytes = READER_FRAME_BYTES
        self.calls = Calls(
            self._owner.source,
            self,
            caller=caller,
            role=role,
            group=self._owner.group,
            counters=self._owner.counters,
            log=self._owner.log,
        )
        wait_s = self._owner.patience.hello_s
        late = TimedOut(f"no hello within {wait_s:g} s")
        self._timer("hello", wait_s, self._refuse, late)

    def data_received(self, data: bytes) -> None:
        """Serve the frames in `data`."""
        if self._is_closing:
            return
        try:
            if self._splitter.is_empty and self._can_write.is_set():
                body = framing.whole_frame(data, self._splitter.max_bytes)
                if body is not None:
                    self._serve(body)
                    return
            self._splitter.feed(data)
            self._serve_waiting()
        except (ProtocolError, TooLarge) as e:
            self._owner.counters.malformed += 1
            self._refuse(e)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel whatever is open."""
        self._is_closing = True
        self._can_write.set()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._progress.clear()
        self._release()
        if self.calls is not None:
            self.calls.stop(Cancelled("the caller disconnected"))
        self._owner.forget(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The caller does not read: stop accepting its frames."""
        self._can_write.clear()
        self._timer("stall", self._owner.patience.stall_s, self._abort)
        if self._transport is not None and not self._is_closing:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The caller reads again."""
        self._stop_timer("stall")
        self._can_write.set()
        progress, self._progress = self._progress, {}
        for frame in progress.values():
            self.send(frame)
        if self._transport is None or self._is_closing:
            return
        self._transport.resume_reading()
        try:
            self._serve_waiting()
        except (ProtocolError, TooLarge) as e:
            self._owner.counters.malformed += 1
            self._refuse(e)

    def send(self, frame: bytes) -> None:
        """Write a frame; dropped if the connection is closing."""
        if self._transport is not None and not self._is_closing:
            self._transport.write(frame)

    def send_progress(self, ident: int, frame: bytes) -> None:
        """Write a progress frame, or keep the newest of each call while the caller is slow."""
        if self._transport is None or self._is_closing:
            return
        if self._can_write.is_set() and (
            self._transport.get_write_buffer_size() < PROGRESS_HIGH_BYTES
        ):
            self._transport.write(frame)
        elif not self._can_write.is_set():
            self._progress[ident] = frame

    def ended(self, ident: int) -> None:
        """Drop a pending progress frame; poll for a caller that calls again at once."""
        self._progress.pop(ident, None)
        if not self.calls:
            self._answered_at = now = time.monotonic()
            if self._eagerness.is_high and self._owner.awake is not None:
                self._owner.awake.extend(now)

    async def writable(self) -> None:
        """Wait while 1 MiB is unsent."""
        await self._can_write.wait()

    def close(self) -> None:
        """Send pending data, then close; a caller that does not read is cut off."""
        if self._transport is None or self._is_closing:
            return
        self._is_closing = True
        self._transport.close()
        self._timer("linger", self._owner.patience.linger_s, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, error: AitorrentError) -> None:
        self.send(encode_error(0, error))
        self.close()

    def _timer(self, name: str, delay_s: float, action: Any, *args: Any) -> None:
        self._stop_timer(name)
        self._timers[name] = self._loop.call_later(delay_s, action, *args)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _serve_waiting(self) -> None:
        while self._can_write.is_set() and not self._is_closing:
            body = self._splitter.take()
            if body is None:
                self._await_rest()
                return
            self._release()
            self._serve(body)

    def _await_rest(self) -> None:
        """Large frames that are still arriving share a budget and have a deadline."""
        length = self._splitter.announced()
        if length is None or length <= _LARGE_FRAME_BYTES or self._reserved_bytes:
            return
        if not self._owner.reserve(length):
            self._refuse(Busy("too many large frames are arriving at once; try again later"))
            return
        self._reserved_bytes = length
        wait_s = self._owner.patience.frame_s
        late = TimedOut(f"a frame of {length} bytes took longer than {wait_s:g} s")
        self._timer("frame", wait_s, self._refuse, late)

    def _release(self) -> None:
        if self._reserved_bytes:
            self._owner.release(self._reserved_bytes)
            self._reserved_bytes = 0
            self._stop_timer("frame")

    def _serve(self, body: bytes) -> None:
        message = framing.decode(body)
        kind = message[0]
        if self.calls is None or not self._is_greeted:
            self._greet(message)
        elif kind == framing.CALL:
            if not self.calls:
                self._eagerness.note(time.monotonic() - self._answered_at)
            self.calls.begin(message)
        elif kind == framing.CANCEL:
            self.calls.cancel(message)
        elif kind == framing.CREDIT:
            self.calls.grant(message)
        # Other kinds come from newer callers, who must not rely on them until a hello allows it.

    def _greet(self, message: list[Any]) -> None:
        if message[0] != framing.HELLO:
            raise ProtocolError("the first frame of a connection is a hello")
        hello = message[1] if len(message) > 1 else None
        proto = framing.common_proto(hello)
        if proto is None:
            low, high = framing.PROTO
            self._refuse(VersionMismatch(f"this daemon speaks protocol {low} to {high}"))
            return
        self._stop_timer("hello")
        self._is_greeted = True
        self._splitter.max_bytes = self._max_frame_bytes
        self.send(
            framing.encode(
                framing.HELLO,
                {
                    "proto": list(framing.PROTO),
                    "server": self._owner.agent,
                    "role": self.role.name.lower(),
                    "max_frame": self._max_frame_bytes,
                    "features": ["stream", "progress", "cancel"],
                },
            )
        )


def too_few_descriptors(limit: int) -> Busy:
    """The answer to a reader's connection while the daemon is short of descriptors."""
    return Busy(
        f"nearly all of the daemon's {limit} file descriptors are in use, and the rest are reserved"
        " for operators; raise the limit (LimitNOFILE=, ulimit -n)"
    )


def too_many(limit: int) -> Busy:
    """The answer to a connection over the limit."""
    return Busy(
        f"{limit} control connections are open; close one, or raise control.max_connections"
    )
