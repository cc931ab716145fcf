"""A blocking client of the control API, for `aitorrentctl` and scripts.

    with Client(default_socket()) as client:
        client.call("node.status")
        for event in client.stream("node.events", {"topics": ["peer.connected"]}):
            ...

It imports neither asyncio nor pydantic. Each client belongs to one thread.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from aitorrentd import __version__
from aitorrentd.control import framing
from aitorrentd.control.answers import (
    GRACE_S,
    NOT_READY,
    LostDaemon,
    NoAccess,
    NoDaemon,
    OnProgress,
    as_map,
)
from aitorrentd.control.blocking import BlockingConnection, deadline_in
from aitorrentd.control.polling import POLLING, Polling
from aitorrentd.errors import (
    AitorrentError,
    Cancelled,
    InvalidParams,
    TimedOut,
    VersionMismatch,
    error_from_map,
)

__all__ = ["Client", "ClientStream", "LostDaemon", "NoAccess", "NoDaemon", "OnProgress"]

_CANCEL_WAIT_S: Final = 2.0


class Client:
    """A connection to a daemon. Calls may be made while streams are open."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        timeout: float | None = 30.0,
        *,
        agent: str = f"aitorrentctl/{__version__}",
        polling: Polling = POLLING,
    ) -> None:
        """Connect and exchange hellos.

        `timeout` in seconds applies to the hello, and to each call unless the call overrides it;
        None waits forever.

        Raises:
            NoDaemon, NoAccess: cannot connect. VersionMismatch: no common protocol version.
            TimedOut: no hello. Busy: the daemon has too many connections.
        """
        self.path = os.fspath(path)
        self.timeout = timeout
        self.hello: Mapping[str, Any] = {}
        "The daemon's hello: server, proto, role, max_frame, features."
        self._next_id = 0
        self._streams: dict[int, ClientStream] = {}
        self._connection = BlockingConnection(self.path, timeout, polling)
        try:
            self._greet(agent)
        except BaseException:
            self.close()
            raise

    def _greet(self, agent: str) -> None:
        deadline = deadline_in(self.timeout)
        offer = {"proto": list(framing.PROTO), "client": agent, "features": []}
        try:
            self._connection.send(framing.encode(framing.HELLO, offer), deadline)
            message = self._connection.receive(deadline)
        except LostDaemon:
            raise LostDaemon(NOT_READY) from None
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
        """The socket's descriptor; it becomes readable when the daemon closes the connection."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the connection; the daemon cancels what is still open."""
        self._connection.close()

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
            AitorrentError: the daemon's error, as its class. TimedOut: none in time.
            LostDaemon: the connection ended.
        """
        timeout = self.timeout if timeout is None else timeout
        ident = self._new_id()
        meta = {} if timeout is None else {"deadline_s": min(timeout, framing.MAX_DEADLINE_S)}
        deadline = deadline_in(timeout, GRACE_S)
        frame = framing.encode(framing.CALL, ident, method, params or {}, meta)
        try:
            self._connection.send(frame, deadline)
            while True:
                message = self._connection.receive(deadline)
                if message[1] != ident:
                    self._route(message)
                elif message[0] == framing.RESULT:
                    return as_map(message[2])
                elif message[0] == framing.ERROR:
                    raise error_from_map(message[2])
                elif message[0] == framing.PROGRESS and progress is not None:
                    progress(as_map(message[2]))
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

        The daemon sends at most `credit` items ahead of the reader. `timeout` in seconds is the
        longest silence allowed; None, the default, waits forever. After `limit_s` seconds the
        daemon ends the stream with TimedOut.
        """
        ident = self._new_id()
        stream = ClientStream(self, ident, method, credit, timeout, progress)
        self._streams[ident] = stream
        meta: dict[str, Any] = {"credit": credit}
        if limit_s is not None:
            meta["deadline_s"] = min(limit_s, framing.MAX_DEADLINE_S)
        frame = framing.encode(framing.CALL, ident, method, params or {}, meta)
        self._connection.send(frame, deadline_in(self.timeout))
        return stream

    def _new_id(self) -> int:
        self._next_id = self._next_id % framing.MAX_ID + 1
        return self._next_id

    def _route(self, message: list[Any]) -> None:
        """Pass a message to its stream; answers to abandoned calls are dropped."""
        if message[1] == 0 and message[0] == framing.ERROR:
            self.close()
            raise error_from_map(message[2])
        stream = self._streams.get(message[1])
        if stream is not None:
            stream._arrived.append(message)

    def _cancel(self, ident: int) -> None:
        """Tell the daemon to stop; its remaining messages for `ident` are dropped."""
        self._streams.pop(ident, None)
        try:
            cancel = framing.encode(framing.CANCEL, ident)
            self._connection.send(cancel, deadline_in(_CANCEL_WAIT_S))
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
        "The daemon's summary at the end."
        self.result: dict[str, Any] | None = None
        "The result, if the method turned out to answer once instead of streaming."
        self._client, self._connection = client, client._connection
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
                return as_map(message[3])
            if kind == framing.PROGRESS and self._progress is not None:
                self._progress(as_map(message[2]))
            elif kind == framing.END:
                self._finish()
                self.summary = as_map(message[2])
            elif kind == framing.RESULT:
                self._finish()
                self.result = as_map(message[2])
            elif kind == framing.ERROR:
                self._finish()
                raise error_from_map(message[2])
        raise StopIteration

    def close(self) -> None:
        """Cancel the stream if it is still running, and wait briefly for the daemon to confirm."""
        if not self._is_open:
            return
        self._is_open = False
        self._arrived.clear()
        client = self._client
        client._cancel(self._ident)
        deadline = deadline_in(_CANCEL_WAIT_S)
        try:
            while client.fileno() >= 0:
                message = self._connection.receive(deadline)
                if message[1] != self._ident:
                    client._route(message)
                elif message[0] in (framing.ERROR, framing.END, framing.RESULT):
                    return
        except (LostDaemon, TimedOut, Cancelled):
            client.close()

    def _next_message(self) -> list[Any]:
        if self._arrived:
            return self._arrived.popleft()
        deadline = deadline_in(self._timeout)
        while True:
            message = self._connection.receive(deadline)
            if message[1] == self._ident:
                return message
            self._client._route(message)

    def _count(self) -> None:
        self.count += 1
        self._taken += 1
        if self._taken >= self._grant_after:
            grant = framing.encode(framing.CREDIT, self._ident, self._taken)
            self._taken = 0
            self._connection.send(grant, deadline_in(self._client.timeout))

    def _finish(self) -> None:
        self._is_open = False
        self._client._streams.pop(self._ident, None)
