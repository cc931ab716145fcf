"""Worker processes from the daemon's side: starts one, talks to it, notices its death.

Under systemd each connection to a socket unit is a worker in its own unit; elsewhere the daemon
starts `python -m aitorrentd.workers.worker` on one end of a socket pair. From there on both behave
the same. Workers for untrusted code are `aitorrentd.workers.sandbox`, started in the same two ways.

Requests are answered in order, so a request's deadline runs from the moment it becomes the oldest:
a request queued behind others is not late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from aitorrentd.errors import AitorrentError, ProtocolError, TimedOut, Unavailable, error_from_map
from aitorrentd.system.systemd import unit_socket as find_unit_socket
from aitorrentd.wire import (
    DEFAULT_MAX_FRAME_BYTES,
    Frame,
    check_length,
    decode_frame,
    frame_head,
)

_LENGTH: Final = struct.Struct(">I")
_SCRATCH_BYTES: Final = 64 * 1024
_CLOSE_GRACE_S: Final = 5.0
_CONNECT_S: Final = 5.0
# Importing torch from a cold disk takes long.
_START_S: Final = 180.0
_MAX_LOG_LINE: Final = 64 * 1024
# Shorter tails are copied behind their header, which is cheaper than a second write.
_JOIN_BELOW: Final = 32 * 1024

Done = Callable[[Frame | AitorrentError], None]
"Receives the answer to a request, or why there is none."


class FrameReceiver(asyncio.BufferedProtocol):
    """Frames from a socket; long ones are received straight into the buffer that is handed out."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._have = 0
        self._body: bytearray | None = None
        self._filled = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for writing."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        # Older uvloop versions write at once only what exceeds the high-water mark.
        self.transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        if self._body is not None:
            return memoryview(self._body)[self._filled :]
        return memoryview(self._scratch)[self._have :]

    def buffer_updated(self, nbytes: int) -> None:
        """Deliver every complete frame."""
        try:
            if self._body is not None:
                self._filled += nbytes
                if self._filled == len(self._body):
                    body, self._body = self._body, None
                    self._worker.frame_received(decode_frame(memoryview(body)))
                return
            self._have += nbytes
            self._take_frames()
        except ProtocolError as e:
            self._worker.lost(f"it sent an invalid frame: {e.message}")

    def _take_frames(self) -> None:
        at, have, scratch = 0, self._have, self._scratch
        while have - at >= 4:
            (length,) = _LENGTH.unpack_from(scratch, at)
            check_length(length, DEFAULT_MAX_FRAME_BYTES)
            end = at + 4 + length
            if end > have:
                if end > len(scratch):
                    self._body = bytearray(length)
                    self._filled = have - at - 4
                    self._body[: self._filled] = scratch[at + 4 : have]
                    at = have
                break
            self._worker.frame_received(decode_frame(scratch[at + 4 : end]))
            at = end
        self._have = have - at
        if self._have:
            scratch[: self._have] = scratch[at:have]

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker closed its end."""
        self._worker.lost(self._worker.ended_text)


@dataclass(slots=True)
class _Request:
    ident: int
    done: Done
    timeout_s: float
    due: float = 0.0
    "On the loop's clock; set when the request becomes the oldest."


class WorkerProcess:
    """A worker process; implements `aitorrentd.api.Worker`."""

    def __init__(self, name: str, log: logging.Logger, *, sandbox: bool = False) -> None:
        self.name = name
        self._kind = "sandbox" if sandbox else "worker"
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[str] = self._loop.create_future()
        self._waiting: deque[_Request] = deque()
        self._next = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.Transport | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._unit_pid: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None until a worker of another service manager reports it."""
        return self._process.pid if self._process else self._unit_pid

    @property
    def closed(self) -> asyncio.Future[str]:
        """Resolves, with the reason, when the worker has gone."""
        return self._closed

    @property
    def unanswered(self) -> int:
        """Number of unanswered requests."""
        return len(self._waiting)

    @property
    def ended_text(self) -> str:
        """The reason when the connection just ends; the parent reports how a child ended."""
        if self._process is not None:
            return "its process ended"
        return f"its process ended; see: journalctl -u 'aitorrent-{self._kind}@*' -n 20"

    async def start(self, entry: str, env: Mapping[str, str], unit_socket: Path | None) -> None:
        """Start or reach the process and tell it what to run; does not wait for its imports."""
        ours = await self._connect(unit_socket) if unit_socket else await self._spawn()
        try:
            transport, _ = await self._loop.create_connection(
                lambda: FrameReceiver(self), sock=ours
            )
        except BaseException:
            ours.close()
            self.kill()
            raise
        self._transport = transport
        start = {"entry": entry, "env": dict(env)}
        if not self._closed.done():  # it may already have ended
            self.submit(start, b"", self._started, timeout_s=_START_S)

    async def _connect(self, unit_socket: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._loop.sock_connect(sock, str(unit_socket))
        except (OSError, TimeoutError) as e:
            sock.close()
            raise Unavailable(
                f"cannot start worker {self.name} through {unit_socket}: {e}; "
                f"see `systemctl status aitorrent-{self._kind}.socket`"
            ) from e
        return sock

    async def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # An isolated daemon (-I) has isolated workers: no PYTHONPATH, no current directory.
        isolated = ("-I",) if sys.flags.isolated else ()
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *isolated, "-m", f"aitorrentd.workers.{self._kind}"),
                    stdin=theirs.fileno(),
                    stderr=asyncio.subprocess.PIPE,
                    limit=_MAX_LOG_LINE,
                )
        except BaseException:
            ours.close()
            raise
        self._reaper = self._loop.create_task(self._reap(), name=f"worker:{self.name}")
        return ours

    def _started(self, answer: Frame | AitorrentError) -> None:
        if isinstance(answer, AitorrentError):
            self.lost(answer.message)  # at once: what follows a failed start is less informative
        elif self._process is None:
            pid = answer.header.get("pid")
            self._unit_pid = pid if isinstance(pid, int) else None

    async def request(
        self, header: Mapping[str, Any], tail: bytes | memoryview = b"", *, timeout_s: float = 60.0
    ) -> Frame:
        """Send one request and wait for its answer; see `aitorrentd.api.Worker`."""
        answer: asyncio.Future[Frame] = self._loop.create_future()

        def done(given: Frame | AitorrentError) -> None:
            if answer.done():
                return  # the caller cancelled while the worker computed
            if isinstance(given, AitorrentError):
                answer.set_exception(given)
            else:
                answer.set_result(given)

        self.submit(header, tail, done, timeout_s=timeout_s)
        return await answer

    def submit(
        self,
        header: Mapping[str, Any],
        tail: bytes | memoryview,
        done: Done,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        """Send one request and pass its answer to `done`; see `aitorrentd.api.Worker`."""
        if self._closed.done() or self._transport is None:
            raise self._gone()
        request = _Request(self._next + 1, done, timeout_s)
        head = frame_head({**header, "id": request.ident}, len(tail))
        self._next += 1
        self._waiting.append(request)
        if len(tail) < _JOIN_BELOW:
            self._transport.write(b"".join((head, tail)))
        else:
            self._transport.write(head)
            self._transport.write(tail)
        if len(self._waiting) == 1:
            self._watch_oldest()

    def frame_received(self, frame: Frame) -> None:
        """Pass an answer to the oldest request."""
        if not self._waiting or frame.header.get("id") != self._waiting[0].ident:
            raise ProtocolError("an answer without a request")
        request = self._waiting.popleft()
        error = frame.header.get("error")
        self._tell(request, frame if error is None else error_from_map(error))
        self._watch_oldest()

    def _tell(self, request: _Request, answer: Frame | AitorrentError) -> None:
        try:
            request.done(answer)
        except Exception:
            # A fence: a plugin's handling of its answer must not cost the worker.
            self._log.exception("the answer of worker %s was discarded", self.name)

    def _watch_oldest(self) -> None:
        """Set the timer for the oldest request's deadline.

        The timer is only moved earlier; one that fires too early checks again. So steps in quick
        succession cost no timers.
        """
        if not self._waiting:
            return
        oldest = self._waiting[0]
        now = self._loop.time()
        oldest.due = now + oldest.timeout_s
        if self._deadline and self._deadline.when() > oldest.due:
            self._deadline.cancel()
            self._deadline = None
        if self._deadline is None:
            self._deadline = self._loop.call_at(oldest.due, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._deadline = None
        if not self._waiting:
            return
        oldest = self._waiting[0]
        if self._loop.time() >= oldest.due:
            self._too_late(oldest.timeout_s)
        else:
            self._deadline = self._loop.call_at(oldest.due, self._look_at_clock)

    def _too_late(self, timeout_s: float) -> None:
        late = self._waiting.popleft()
        text = f"worker {self.name} did not answer within {timeout_s:g} s and was killed"
        self._tell(late, TimedOut(text))
        self.lost(f"it did not answer within {timeout_s:g} s")

    def _gone(self) -> AitorrentError:
        reason = self._closed.result() if self._closed.done() else "it did not start"
        return Unavailable(f"worker {self.name} is gone: {reason}")

    def lost(self, reason: str) -> None:
        """The worker is unusable; every waiting request fails."""
        if self._closed.done():
            return
        self._closed.set_result(reason)
        if self._deadline:
            self._deadline.cancel()
        while self._waiting:
            self._tell(self._waiting.popleft(), self._gone())
        if self._transport:
            self._transport.abort()
        self.kill()

    def kill(self) -> None:
        """Kill the process."""
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def close(self) -> None:
        """Close our end, which ends an idle worker; kill it after 5 s."""
        if self._transport:
            self._transport.close()
        try:
            if self._reaper:
                await asyncio.wait_for(asyncio.shield(self._reaper), _CLOSE_GRACE_S)
        except TimeoutError:
            self.kill()
            if self._reaper:
                await self._reaper
        self.lost("closed")

    async def _reap(self) -> None:
        """Forward the worker's standard error to the log, then report how the process ended."""
        process = self._process
        assert process is not None and process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # a line over the limit; the reader dropped it
                continue
            if not line:
                break
            self._log.info("%s", line.decode(errors="replace").rstrip())
        code = await process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.lost(f"its process ended ({how})")


async def spawn_worker(
    entry: str,
    *,
    name: str,
    env: Mapping[str, str] | None = None,
    sandbox: bool = False,
    unit_socket: Path | None = None,
) -> WorkerProcess:
    """Start a worker with the entry point `module:function`; `sandbox`: one for untrusted code.

    `unit_socket` is the socket of a service manager that starts a worker for each connection, by
    default that of our own socket unit. Without one the worker is a child process. Its imports run
    in the background: if the entry point cannot be loaded, the worker is gone, with the reason.

    Raises:
        Unavailable: no answer at `unit_socket`.
    """
    worker = WorkerProcess(name, logging.getLogger(f"aitorrentd.worker.{name}"), sandbox=sandbox)
    found = unit_socket or find_unit_socket("sandbox" if sandbox else "worker")
    await worker.start(entry, env or {}, found)
    return worker
