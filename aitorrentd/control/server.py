"""The control server: listens, and admits, counts and closes control connections."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from aitorrentd.api.descriptors import is_scarce, limit
from aitorrentd.api.faces import unix_socket
from aitorrentd.api.plugin import HealthWarning, Role
from aitorrentd.api.tally import Tally
from aitorrentd.control.auth import Credentials, group_id, role_of
from aitorrentd.control.calls import Counters, MethodSource
from aitorrentd.control.connection import (
    PATIENCE,
    Connection,
    Patience,
    too_few_descriptors,
    too_many,
)
from aitorrentd.control.polling import POLLING, Polling, WakefulLoop
from aitorrentd.errors import AitorrentError, ConfigError, ShuttingDown

CHECK_S: Final = 5.0
_OPERATOR_DESCRIPTORS: Final = 8
"The last file descriptors are for those who can fix what uses up the others."
_ARRIVING_BYTES: Final = 64 * 1024 * 1024
"Large frames that are still arriving use at most this much memory, over all connections."


def check_inherited(sock: socket.socket) -> None:
    """Check that a socket from the service manager can be served.

    Raises:
        ConfigError: not a listening Unix stream socket.
    """
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not is_listening:
        raise ConfigError(
            "the service manager passed a control socket that is not a listening"
            " Unix stream socket; see ListenStream= in aitorrentd.socket"
        )
    sock.setblocking(False)


class ControlServer:
    """Serves the methods of a source to local callers. One per node; nothing is global.

    Every `check_s` seconds it checks that its sockets are still where clients expect them. `agent`
    names the daemon in the hello, such as `aitorrentd/0.1.0`; members of `group` get the role
    OPERATE. Closing waits `cancel_wait_s` for cancelled calls to end.
    """

    def __init__(
        self,
        source: MethodSource,
        *,
        agent: str,
        group: str = "aitorrent",
        max_connections: int = 64,
        log: logging.Logger | None = None,
        check_s: float = CHECK_S,
        cancel_wait_s: float = 1.0,
        patience: Patience = PATIENCE,
        polling: Polling = POLLING,
    ) -> None:
        self.source = source
        self.agent = agent
        self.group = group
        self.patience = patience
        self.polling = polling
        self._cancel_wait_s = cancel_wait_s
        self.counters = Counters()
        self.log = log or logging.getLogger("aitorrentd.control")
        self._max_connections = max_connections
        self._connections: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._leaving: set[Connection] = set()
        "Closed, but with calls that have not ended."
        self._servers: list[asyncio.Server] = []
        self._bound: list[unix_socket.BoundSocket] = []
        self._unreachable: dict[Path, str] = {}
        "Sockets without a file, and what can be done about each."
        self._check_s = check_s
        self._keeping: list[asyncio.Task[None]] = []
        self._arriving_left = _ARRIVING_BYTES
        self._operate_gid = group_id(group)
        self._own_uid = os.geteuid()
        self._refusals = Tally()
        self._is_closing = False
        self.awake: WakefulLoop | None = None

    async def listen(self, path: Path, *, mode: int = 0o660) -> None:
        """Serve at `path`, which belongs to this server until it closes.

        A dead daemon's socket file is replaced.

        Raises:
            Conflict: a live daemon answers there, or the path exists and is not a socket.
            Denied: no permission. InvalidParams: the path is too long.
            Unavailable: any other system error.
        """
        bound = await self._bind(path, mode)
        if bound.remark:
            self.log.info("%s", bound.remark)
        server = await self._serve(bound.sock)
        self._keeping.append(
            asyncio.create_task(self._keep(bound, server, mode), name="control-socket")
        )

    async def _bind(self, path: Path, mode: int) -> unix_socket.BoundSocket:
        bound = await asyncio.to_thread(
            unix_socket.bind, path, mode=mode, gid=self._operate_gid, group=self.group
        )
        self._bound.append(bound)
        return bound

    async def _keep(
        self, bound: unix_socket.BoundSocket, server: asyncio.Server, mode: int
    ) -> None:
        """Restore the socket file after something, such as a cleaner of /tmp, removed it."""
        while True:
            await asyncio.sleep(self._check_s)
            if bound.is_there():
                continue
            try:
                again = await self._bind(bound.path, mode)
            except AitorrentError as e:
                text = (
                    f"the control socket {bound.path} is gone and cannot be restored: {e.message}"
                )
                if text != self._unreachable.get(bound.path):
                    self._unreachable[bound.path] = text
                    self.log.warning("%s", text)
                continue
            # The old one is unreachable; its connections stay.
            server.close()
            self._servers.remove(server)
            self._bound.remove(bound)
            bound, server = again, await self._serve(again.sock)
            self._unreachable.pop(bound.path, None)
            self.log.warning("the control socket %s was removed; restoring it", bound.path)

    async def listen_on(self, sock: socket.socket) -> None:
        """Serve on a listening socket from the service manager; its file stays when we close.

        Raises:
            ConfigError: not a listening Unix stream socket.
        """
        check_inherited(sock)
        await self._serve(sock)
        if isinstance(path := sock.getsockname(), str) and path:
            watching = self._watch_inherited(Path(path))
            self._keeping.append(asyncio.create_task(watching, name="control-socket"))

    def problem(self) -> HealthWarning | None:
        """Where clients cannot connect."""
        text = "; ".join(self._unreachable.values())
        return HealthWarning("control_socket", text, "error") if text else None

    async def _watch_inherited(self, path: Path) -> None:
        """Report when the file is gone; only the service manager can recreate it."""
        while os.path.lexists(path):  # noqa: ASYNC110, ASYNC240 - there is no notification
            await asyncio.sleep(self._check_s)
        text = f"the control socket {path} was removed; run: systemctl restart aitorrentd.socket"
        self._unreachable[path] = text
        self.log.warning("%s", text)

    async def _serve(self, sock: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if self.awake is None and self.polling.pays():
            self.awake = WakefulLoop(loop, spin_s=self.polling.spin_s)
        server = await loop.create_unix_server(
            lambda: Connection(self), sock=sock, backlog=unix_socket.BACKLOG
        )
        self._servers.append(server)
        return server

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Stop listening, end streams, let other calls finish for `grace_s`, then disconnect."""
        self._is_closing = True
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for server in self._servers:
            server.close()
        for bound in self._bound:
            bound.remove_file()
        reason = ShuttingDown("the daemon is stopping")
        for connection in self._connections:
            if connection.calls is not None:
                connection.calls.refuse_new(reason)
                connection.calls.stop(reason, streams_only=True)
        if not await self._wait(self._tasks(streams=False), grace_s):
            self._stop_calls(reason)
        if not await self._wait(self._tasks(), self._cancel_wait_s):
            names = ", ".join(task.get_name() for task in self._tasks())
            self.log.warning("abandoned because they ignore cancellation: %s", names)
        leaving = [*self._connections, *self._refused]
        for connection in leaving:
            connection.close()
        await self._wait({c.closed for c in leaving}, 2 * self._cancel_wait_s)
        for server in self._servers:
            try:
                await asyncio.wait_for(server.wait_closed(), self._cancel_wait_s)
            except TimeoutError:
                self.log.warning("a control listener did not close in %g s", self._cancel_wait_s)
        self._servers.clear()
        self._bound.clear()

    def _stop_calls(self, reason: AitorrentError) -> None:
        for connection in self._connections:
            if connection.calls is not None:
                connection.calls.stop(reason)

    def _tasks(self, *, streams: bool = True) -> set[asyncio.Task[None]]:
        found: set[asyncio.Task[None]] = set()
        for connection in [*self._connections, *self._leaving]:
            if connection.calls is not None:
                found |= connection.calls.tasks(streams=streams)
        return found

    @staticmethod
    async def _wait(futures: Iterable[asyncio.Future[Any]], timeout_s: float) -> bool:
        """Whether all of them finish within `timeout_s`."""
        current = asyncio.current_task()
        waiting = {f for f in futures if f is not current}
        if not waiting:
            return True
        return not (await asyncio.wait(waiting, timeout=timeout_s))[1]

    def statistics(self) -> dict[str, int]:
        """Connections and calls, now and since the start."""
        counters = self.counters
        return {
            "connections_open": len(self._connections),
            "connections_total": counters.connections,
            "connections_refused": counters.refused,
            "calls_open": len(self._tasks()),
            "calls_total": counters.calls,
            "call_errors": counters.errors,
            "items_sent": counters.items,
            "frames_malformed": counters.malformed,
            "arriving_bytes": _ARRIVING_BYTES - self._arriving_left,
        }

    def role(self, caller: Credentials) -> Role:
        """The role of a caller."""
        return role_of(caller, own_uid=self._own_uid, operate_gid=self._operate_gid)

    def admit(self, connection: Connection) -> AitorrentError | None:
        """Admit a connection, or say why not."""
        if self._is_closing:
            self._refused.add(connection)
            return ShuttingDown("the daemon is stopping")
        self._leaving = {c for c in self._leaving if c.calls}
        if len(self._connections) + len(self._leaving) >= self._max_connections:
            return self._refuse(connection, too_many(self._max_connections))
        if connection.role is Role.READ and self._readers() >= max(1, self._max_connections // 2):
            # Read-only callers must not be able to lock out operators.
            return self._refuse(connection, too_many(self._max_connections // 2))
        if connection.role is Role.READ and is_scarce(
            connection.descriptor, reserved=_OPERATOR_DESCRIPTORS
        ):
            return self._refuse(connection, too_few_descriptors(limit()))
        self._connections.add(connection)
        self.counters.connections += 1
        return None

    def _refuse(self, connection: Connection, error: AitorrentError) -> AitorrentError:
        self.counters.refused += 1
        self._refused.add(connection)
        now = asyncio.get_running_loop().time()
        if (told := self._refusals.add(error.message, "", now)) is not None:
            self.log.warning("refused control connections: %s", told)
        return error

    def _readers(self) -> int:
        return sum(c.role is Role.READ for c in self._connections)

    def forget(self, connection: Connection) -> None:
        """Release an admitted connection."""
        self._connections.discard(connection)
        self._refused.discard(connection)
        if connection.calls:
            self._leaving.add(connection)

    def reserve(self, size_bytes: int) -> bool:
        """Reserve memory for a large frame that is still arriving; False if there is none."""
        if size_bytes > self._arriving_left:
            return False
        self._arriving_left -= size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Release reserved memory."""
        self._arriving_left += size_bytes
