"""A blocking client of the control API, for `aitorrentctl` and scripts.

    with Client(default_socket()) as client:
        client.call("node.status")
        for event in client.stream("node.events", {"topics": ["peer.connected"]}):
            ...

It imports no asyncio and no pydantic. One thread uses one client.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from aitorrentd import __version__
from aitorrentd.control import framing, polling
from aitorrentd.errors import (
    AitorrentError,
    Cancelled,
    Denied,
    InvalidParams,
    ProtocolError,
    TimedOut,
    Unavailable,
    VersionMismatch,
    error_from_map,
)

OnProgress = Callable[[Mapping[str, Any]], None]
"Gets {text, done, total, unit}; done and total may be None."

_CHUNK_BYTES: Final = 64 * 1024  # more would be a mapping of its own for each recv: malloc(3)
_GRACE_S: Final = 1.0  # the daemon knows the deadline too, and its answer says more than ours
_CANCEL_WAIT_S: Final = 2.0
_LONGEST_POLL_S: Final = 86_400.0  # poll(2) takes milliseconds in an int


class NoDaemon(Unavailable):
    """Nobody listens on the control socket."""


class NoAccess(Denied):
    """The control socket is there, and this user may not connect."""


class LostDaemon(Unavailable):
    """The connection ended in the middle."""


def _connect(path: str, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except OSError as e:
        sock.close()
        if isinstance(e, PermissionError):
            raise NoAccess(
                f"cannot reach {path}: permission denied; "
                "join the group: sudo adduser $USER aitorrent, then log in again"
            ) from None
        if isinstance(e, TimeoutError) or e.errno == errno.EAGAIN:
            raise TimedOut(f"cannot reach {path}: the daemon does not accept connections") from None
        hint = "is it running? systemctl status aitorrentd"
        raise NoDaemon(f"cannot reach {path}: {e.strerror or e}; {hint}") from None
    return sock


class Client:
    """A connection to a daemon. Calls may be made while streams are open."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        timeout: float | None = 30.0,
        *,
        agent: str = f"aitorrentctl/{__version__}",
    ) -> None:
        """Connect and say hello.

        `timeout` is in seconds, for the hello and for each call unless the call says otherwise;
        None waits for ever.

        Raises:
            NoDaemon, NoAccess: as they say. VersionMismatch: no common protocol version.
            TimedOut: no hello. Busy: the daemon has too many connections.
        """
        self.path = os.fspath(path)
        self.timeout = timeout
        self.hello: Mapping[str, Any] = {}
        "What the daemon said of itself: server, proto, role, max_frame, features."
        self._splitter = framing.FrameSplitter(framing.MAX_FRAME_BYTES)
        self._next_id = 0
        self._streams: dict[int, ClientStream] = {}
        self._is_sending = False
        self._sock = _connect(self.path, timeout)
        self._sock.setblocking(False)
        self._arrival = select.poll()
        self._arrival.register(self._sock, select.POLLIN)
        self._eagerness = polling.Eagerness() if polling.has_processors() else None
        try:
            self._greet(agent)
        except BaseException:
            self._sock.close()
            raise

    def _greet(self, agent: str) -> None:
        deadline = _deadline(self.timeout)
        offer = {"proto": list(framing.PROTO), "client": agent, "features": []}
        self._send(framing.encode(framing.HELLO, offer), deadline)
        message = self._receive(deadline)
        if message[0] == framing.ERROR:
            raise error_from_map(message[2] if len(message) > 2 else None)
        hello = message[1] if message[0] == framing.HELLO and len(message) > 1 else None
        if framing.common_proto(hello) is None:
            raise VersionMismatch(f"the daemon at {self.path} speaks another protocol version")
        self.hello = hello if isinstance(hello, dict) else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket's descriptor; it is readable when the daemon closed the connection."""
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up; the daemon cancels what is still open."""
        self._sock.close()

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Call a method and wait for its result, which is always a map.

        `timeout` in seconds replaces the client's. Ctrl-C cancels the call in the daemon.

        Raises:
            AitorrentError: the daemon's answer, as its class. TimedOut: none in time.
            LostDaemon: the connection ended.
        """
        timeout = self.timeout if timeout is None else timeout
        ident = self._new_id()
        meta = {} if timeout is None else {"deadline_s": min(timeout, framing.MAX_DEADLINE_S)}
        deadline = _deadline(timeout, _GRACE_S)
        frame = framing.encode(framing.CALL, ident, method, params or {}, meta)
        try:
            self._send(frame, deadline)
            while True:
                message = self._receive(deadline)
                if message[1] != ident:
                    self._route(message)
                elif message[0] == framing.RESULT:
                    return _as_map(message[2])
                elif message[0] == framing.ERROR:
                    raise error_from_map(message[2])
                elif message[0] == framing.PROGRESS and progress is not None:
                    progress(_as_map(message[2]))
                elif message[0] in (framing.ITEM, framing.END):
                    self._cancel(ident)
                    raise InvalidParams(f"{method} answers with a stream")
        except KeyboardInterrupt:
            self._cancel(ident)
            raise
        except TimedOut:
            self._cancel(ident)
            raise

    def stream(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        credit: int = framing.DEFAULT_CREDIT,
        timeout: float | None = None,
        limit_s: float | None = None,
        progress: OnProgress | None = None,
    ) -> ClientStream:
        """Call a method that answers with a stream of maps.

        The daemon sends at most `credit` items that were not yet taken. `timeout` in seconds is
        the longest silence; None, the default, waits for ever. After `limit_s` seconds the daemon
        ends the stream with TimedOut.
        """
        ident = self._new_id()
        stream = ClientStream(self, ident, method, credit, timeout, progress)
        self._streams[ident] = stream
        meta: dict[str, Any] = {"credit": credit}
        if limit_s is not None:
            meta["deadline_s"] = min(limit_s, framing.MAX_DEADLINE_S)
        frame = framing.encode(framing.CALL, ident, method, params or {}, meta)
        self._send(frame, _deadline(self.timeout))
        return stream

    def _new_id(self) -> int:
        self._next_id = self._next_id % framing.MAX_ID + 1
        return self._next_id

    def _route(self, message: list[Any]) -> None:
        """Hand a message to the stream that it is for; answers to abandoned calls are dropped."""
        if message[1] == 0 and message[0] == framing.ERROR:
            self.close()
            raise error_from_map(message[2])
        stream = self._streams.get(message[1])
        if stream is not None:
            stream._arrived.append(message)

    def _send(self, frame: bytes, deadline: float | None) -> None:
        if self._is_sending:
            raise LostDaemon("this connection was interrupted in the middle of a frame")
        self._is_sending = True
        try:
            sent = self._sock.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as e:
            # The daemon may have said why before it hung up (too many connections, for one).
            self._is_sending = False
            self._explain_loss(e)
        if sent < len(frame):
            self._send_rest(memoryview(frame)[sent:], deadline)
        self._is_sending = False

    def _send_rest(self, rest: memoryview, deadline: float | None) -> None:
        room = select.poll()
        room.register(self._sock, select.POLLOUT)
        while rest:
            if not _is_ready(room, deadline):
                raise TimedOut("the daemon does not read; it may be hung")
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as e:
                self._is_sending = False
                self._explain_loss(e)

    def _explain_loss(self, error: OSError) -> None:
        try:
            while True:
                message = self._receive(_deadline(1.0))
                if message[0] == framing.ERROR and message[1] == 0:
                    raise error_from_map(message[2])
        except (LostDaemon, TimedOut):
            raise LostDaemon(f"the daemon closed the connection: {error.strerror}") from None

    def _receive(self, deadline: float | None) -> list[Any]:
        while True:
            body = self._splitter.take()
            if body is not None:
                message = framing.decode(body)
                if message[0] == framing.HELLO or framing.is_answer(message):
                    return message
                continue
            self._await_arrival(deadline)
            try:
                chunk = self._sock.recv(_CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as e:
                raise LostDaemon(f"lost the daemon: {e.strerror}") from None
            if not chunk:
                raise LostDaemon("the daemon closed the connection")
            whole = None
            if self._splitter.is_empty:
                whole = framing.whole_frame(chunk, framing.MAX_FRAME_BYTES)
            if whole is None:
                self._splitter.feed(chunk)
                continue
            message = framing.decode(whole)
            if message[0] == framing.HELLO or framing.is_answer(message):
                return message

    def _await_arrival(self, deadline: float | None) -> None:
        """Return when something can be received: without sleep, if the last answers came soon."""
        if self._sock.fileno() < 0:
            raise LostDaemon("this connection is closed")
        eagerness = self._eagerness
        if eagerness is None:
            if not _is_ready(self._arrival, deadline):
                raise TimedOut("no answer from the daemon in time")
            return
        now = start = time.monotonic()
        has_arrived = False
        if eagerness.is_high:
            while not has_arrived and now - start < polling.SPIN_S:
                has_arrived = bool(self._arrival.poll(0))
                now = time.monotonic()
        if not has_arrived:
            if not _is_ready(self._arrival, deadline):
                raise TimedOut("no answer from the daemon in time")
            now = time.monotonic()
        eagerness.note(now - start)

    def _cancel(self, ident: int) -> None:
        """Tell the daemon to stop; whatever it still answers to `ident` will be dropped."""
        self._streams.pop(ident, None)
        try:
            self._send(framing.encode(framing.CANCEL, ident), _deadline(_CANCEL_WAIT_S))
        except AitorrentError:
            self.close()


class ClientStream(Iterator[dict[str, Any]]):
    """A running stream: an iterator of maps. Leave it early with `close()` or a `with` block."""

    def __init__(
        self,
        client: Client,
        ident: int,
        method: str,
        credit: int,
        timeout: float | None,
        progress: OnProgress | None,
    ) -> None:
        self.summary: dict[str, Any] = {}
        "What the daemon said at the end."
        self.result: dict[str, Any] | None = None
        "The result, when the method turned out to answer once instead of with a stream."
        self._client = client
        self._ident = ident
        self._method = method
        self._timeout = timeout
        self._progress = progress
        self._grant_after = max(1, credit // 2)
        self._taken = 0
        self.count = 0
        "Items taken so far."
        self._arrived: deque[list[Any]] = deque()  # bounded by the credit
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __next__(self) -> dict[str, Any]:
        while self._is_open:
            try:
                message = self._next_message()
            except KeyboardInterrupt:
                self.close()
                raise
            kind = message[0]
            if kind == framing.ITEM and len(message) > 3:
                self._count()
                return _as_map(message[3])
            if kind == framing.PROGRESS and self._progress is not None:
                self._progress(_as_map(message[2]))
            elif kind == framing.END:
                self._finish()
                self.summary = _as_map(message[2])
            elif kind == framing.RESULT:
                self._finish()
                self.result = _as_map(message[2])
            elif kind == framing.ERROR:
                self._finish()
                raise error_from_map(message[2])
        raise StopIteration

    def close(self) -> None:
        """Cancel the stream, if it still runs, and wait a moment until the daemon confirms."""
        if not self._is_open:
            return
        self._is_open = False
        self._arrived.clear()
        client = self._client
        client._cancel(self._ident)
        deadline = _deadline(_CANCEL_WAIT_S)
        try:
            while client.fileno() >= 0:
                message = client._receive(deadline)
                if message[1] != self._ident:
                    client._route(message)
                elif message[0] in (framing.ERROR, framing.END, framing.RESULT):
                    return
        except (LostDaemon, TimedOut, Cancelled):
            client.close()

    def _next_message(self) -> list[Any]:
        if self._arrived:
            return self._arrived.popleft()
        deadline = _deadline(self._timeout)
        while True:
            message = self._client._receive(deadline)
            if message[1] == self._ident:
                return message
            self._client._route(message)

    def _count(self) -> None:
        self.count += 1
        self._taken += 1
        if self._taken >= self._grant_after:
            grant = framing.encode(framing.CREDIT, self._ident, self._taken)
            self._taken = 0
            self._client._send(grant, _deadline(self._client.timeout))

    def _finish(self) -> None:
        self._is_open = False
        self._client._streams.pop(self._ident, None)


def _deadline(timeout: float | None, grace_s: float = 0.0) -> float | None:
    return None if timeout is None else time.monotonic() + timeout + grace_s


def _is_ready(events: select.poll, deadline: float | None) -> bool:
    """Wait for one of `events` until `deadline`; False when it has passed."""
    while True:
        if deadline is None:
            wait_ms = None
        else:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            wait_ms = math.ceil(min(left, _LONGEST_POLL_S) * 1000)
        if events.poll(wait_ms):
            return True


def _as_map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"expected a map from the daemon, got {type(value).__name__}")
    return value
