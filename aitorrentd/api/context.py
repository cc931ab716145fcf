"""PluginContext: everything that a plugin gets from its node."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiosqlite

from aitorrentd.api.events import Event
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.ids import PeerId
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.plugin import Role
from aitorrentd.api.services import ServiceKey
from aitorrentd.api.workers import Worker
from aitorrentd.control.answers import OnProgress

T = TypeVar("T")
E = TypeVar("E", bound=Event)


class Clock(Protocol):
    """Time, replaceable in tests."""

    def monotonic(self) -> float:
        """Monotonic time in seconds."""

    def time(self) -> float:
        """Seconds since the epoch."""


class Signer(Protocol):
    """The node's identity. It signs; the private key never leaves it."""

    @property
    def peer_id(self) -> PeerId:
        """The node's public name."""

    @property
    def public_key(self) -> bytes:
        """Ed25519, 32 bytes."""

    def sign(self, domain: str, message: bytes) -> bytes:
        """Ed25519 signature (64 bytes) over the domain-separated message.

        `domain` names the purpose (`aitd/dhcert/1`), so that a signature for one purpose is never
        valid for another. Verify with `aitorrentd.api.verify`.
        """

    def agree(self, domain: str, public_key: bytes) -> bytes:
        """A secret (32 bytes) for `domain` that only this node and the owner of `public_key` know.

        Whoever authenticates with it proves its key to the other side, and to nobody else. It
        costs about as much as a signature and its check, once for each pair.

        Raises:
            ValueError: not a valid Ed25519 public key.
        """


class Caller(Protocol):
    """Calls control methods inside the process, with a role of its own."""

    def describe(self) -> tuple[Mapping[str, Any], ...]:
        """The methods that this caller may call, as `rpc.describe` shows them: the same tuple
        until a plugin starts or stops."""

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """The result of a method that answers once, as clients of the control socket get it.

        Raises:
            AitorrentError: as over the socket. Denied: the role does not suffice.
        """

    def stream(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        progress: OnProgress | None = None,
        summary: dict[str, Any] | None = None,
    ) -> AsyncGenerator[dict[str, Any]]:
        """The items of a method that streams; what ends it is stored in `summary`. Closing the
        generator ends the method. Errors as for `call`.
        """


class ControlDoor(Protocol):
    """The control API of the node, for plugins that offer it elsewhere."""

    def caller(self, role: Role) -> Caller:
        """A caller with this role."""

    def role_of(self, sock: PeerSocket) -> Role:
        """The role of the process at the other end of a Unix socket, as on the control socket.

        Raises:
            OSError: not a Unix socket, or the other end is gone.
        """


class PeerSocket(Protocol):
    """A connected socket, as far as its peer's credentials are concerned."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """As in socket.socket."""


class PluginContext(Protocol):
    """The narrow interface between a plugin and its node. It gives no access to the kernel."""

    @property
    def name(self) -> str:
        """The plugin's name, as in the configuration."""

    @property
    def config(self) -> Any:
        """The plugin's validated configuration: an instance of the model in its PluginInfo."""

    @property
    def log(self) -> logging.Logger:
        """The logger `aitorrentd.<name>`; INFO is for state changes."""

    @property
    def data_dir(self) -> Path:
        """The plugin's own directory for persistent data; created 0700 on first use."""

    @property
    def cache_dir(self) -> Path:
        """The plugin's own directory for data that may be deleted; created 0700 on first use."""

    @property
    def runtime_dir(self) -> Path:
        """The plugin's own directory, kept until the daemon stops; created 0700 on first use."""

    @property
    def identity(self) -> Signer:
        """The node's signer."""

    @property
    def clock(self) -> Clock:
        """The clock."""

    @property
    def random(self) -> random.Random:
        """A random source for jitter and choices, seedable in tests; never for keys."""

    @property
    def tasks(self) -> asyncio.TaskGroup:
        """The plugin's task group; a failing task fails the plugin, which is then restarted."""

    @property
    def network(self) -> str:
        """The network id from `node.network`; nodes on different networks never communicate."""

    @property
    def node_name(self) -> str:
        """The name that the operator gave this node, or the empty string."""

    def provide(self, key: ServiceKey[T], service: T) -> None:
        """Provide a service until the plugin stops; its key must be in PluginInfo.provides."""

    def service(self, key: ServiceKey[T]) -> T:
        """A service of another plugin.

        Raises:
            Unavailable: no plugin provides it now.
        """

    def optional(self, key: ServiceKey[T]) -> T | None:
        """A service of another plugin, or None."""

    def publish(self, event: Event) -> None:
        """Deliver the event to every subscriber; never waits."""

    def subscribe(
        self, *kinds: type[E], max_queued: int = 1024
    ) -> AbstractContextManager[AsyncIterator[E | Event]]:
        """Subscribe to events of these kinds.

        `with ctx.subscribe(PeerConnected) as events:` then `async for event in events:`. The
        subscription starts when the block is entered. It ends with the block, or after a final
        `Lagged`.
        """

    @property
    def draining(self) -> bool:
        """Whether the node is draining and refuses new work; `Draining` announces each change."""

    def work(self, what: str) -> AbstractContextManager[None]:
        """Count work that a caller waits for: `with ctx.work("answer"):`; `what` is singular.

        A node that drains or shuts down cleanly waits for it. Do not count work that is part of
        other counted work.

        Raises:
            ShuttingDown: on entering the block, while the node is draining.
        """

    def routes(self) -> tuple[tuple[str, HttpRoute], ...]:
        """(plugin, HTTP route) of running plugins: the same tuple until a plugin starts or
        stops; for the HTTP server."""

    def metrics(self) -> list[Metric]:
        """Every metric of the node as it is now, the core's first; for the monitor."""

    @property
    def control(self) -> ControlDoor:
        """The control API, from inside the process.

        Raises:
            Unavailable: the node has none.
        """

    def sockets(self) -> list[socket.socket]:
        """Listening sockets that the service manager opened for this plugin: those whose
        FileDescriptorName= is its name. The plugin closes them; the next start gets them again."""

    def protocols(self) -> Iterator[Any]:
        """Wire protocols that running plugins declare; for the transport."""

    def decide(self, hook: str, **arguments: Any) -> Any:
        """The first opinion of the plugins' policy hooks, or None; a failing hook has none."""

    def db(
        self, migrations: Mapping[int, str], *, name: str = ""
    ) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        """The plugin's own SQLite database (WAL), with pending numbered SQL scripts applied.

        A plugin that has several gives each a `name`; the usual one has the plugin's.
        """

    async def spawn_worker(
        self, entry: str, *, name: str, env: Mapping[str, str] | None = None, sandbox: bool = False
    ) -> Worker:
        """Start a worker process with the entry point `module:function`; it ends with the plugin.

        With `sandbox` it may run untrusted code: it gets 30 s of wall-clock time, 10 s of CPU time
        and 384 MiB. When a limit ends it, the error's `data["limit"]` says which one. Under systemd
        it also has no files, no network and no privileges; elsewhere it is limited but not
        isolated.
        """
