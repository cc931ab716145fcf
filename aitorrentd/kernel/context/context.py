"""The PluginContext of one plugin run."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite

from aitorrentd.api.context import Clock, ControlDoor, Signer
from aitorrentd.api.events import Event
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.plugin import PluginConfig
from aitorrentd.api.services import ServiceKey
from aitorrentd.api.workers import Worker
from aitorrentd.errors import Unavailable
from aitorrentd.kernel.context.bus import EventBus, Subscription
from aitorrentd.kernel.context.database import open_database
from aitorrentd.kernel.context.drain import Drain
from aitorrentd.kernel.context.services import Services
from aitorrentd.kernel.hooks import Misdeclared
from aitorrentd.kernel.reasons import reason

T = TypeVar("T")
E = TypeVar("E", bound=Event)

WORKER_CLOSE_S: Final = 7.0
"A worker gets 5 s to exit (Worker.close); the rest is for the kill."


class SystemClock:
    """The system clock."""

    def monotonic(self) -> float:
        """Monotonic time in seconds."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all plugins of a node share."""

    identity: Signer
    clock: Clock
    random: random.Random
    network: str
    node_name: str
    data_dir: Path
    cache_dir: Path
    runtime_dir: Path
    spawn_worker: Callable[..., Awaitable[Worker]]
    bus: EventBus
    services: Services
    control: ControlDoor | None
    sockets: Mapping[str, Sequence[socket.socket]]
    routes: Callable[[], tuple[tuple[str, HttpRoute], ...]]
    metrics: Callable[[], list[Metric]]
    protocols: Callable[[], Iterator[Any]]
    decide: Callable[..., Any]
    changed: Callable[[], None]
    "Called after a service appears."
    drain: Drain


class Context:
    """See `aitorrentd.api.PluginContext`. After `end()` it grants nothing that would persist."""

    def __init__(
        self,
        name: str,
        config: PluginConfig | None,
        declared: frozenset[str],
        tasks: asyncio.TaskGroup,
        around: Surroundings,
    ) -> None:
        self._name = name
        self._config = config
        self._declared = declared
        self._tasks = tasks
        self._around = around
        self._log = logging.getLogger(f"aitorrentd.{name}")
        self._subscriptions: set[Subscription[Any]] = set()
        self._workers: set[Worker] = set()
        self._ended = False

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self._name

    @property
    def config(self) -> Any:
        """The plugin's validated settings."""
        return self._config

    @property
    def log(self) -> logging.Logger:
        """The logger `aitorrentd.<name>`."""
        return self._log

    @property
    def data_dir(self) -> Path:
        """For persistent data."""
        return self._own(self._around.data_dir)

    @property
    def cache_dir(self) -> Path:
        """For data that may be deleted."""
        return self._own(self._around.cache_dir)

    @property
    def runtime_dir(self) -> Path:
        """For data kept until the daemon stops."""
        return self._own(self._around.runtime_dir)

    def _own(self, base: Path) -> Path:
        path = base / self._name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    @property
    def identity(self) -> Signer:
        """The node's signer."""
        return self._around.identity

    @property
    def clock(self) -> Clock:
        """The clock."""
        return self._around.clock

    @property
    def random(self) -> random.Random:
        """For jitter and choices; never for keys."""
        return self._around.random

    @property
    def tasks(self) -> asyncio.TaskGroup:
        """The plugin's task group."""
        return self._tasks

    @property
    def network(self) -> str:
        """The network id."""
        return self._around.network

    @property
    def node_name(self) -> str:
        """The configured name, or the empty string."""
        return self._around.node_name

    def provide(self, key: ServiceKey[T], service: T) -> None:
        """Provide a declared service until the plugin stops.

        Raises:
            Misdeclared: not in PluginInfo.provides. Conflict: another plugin provides it.
        """
        self._check_running()
        if key.name not in self._declared:
            raise Misdeclared(
                f"plugin {self._name} provides {key.name}, which is not in its PluginInfo.provides"
            )
        self._around.services.provide(self._name, key, service)
        self._around.changed()

    def service(self, key: ServiceKey[T]) -> T:
        """A service of another plugin, or Unavailable."""
        return self._around.services.service(key)

    def optional(self, key: ServiceKey[T]) -> T | None:
        """A service of another plugin, or None."""
        return self._around.services.optional(key)

    def publish(self, event: Event) -> None:
        """Deliver to every subscriber; never waits."""
        self._around.bus.publish(event)

    @contextmanager
    def subscribe(
        self, *kinds: type[E], max_queued: int = 1024
    ) -> Iterator[AsyncIterator[E | Event]]:
        """Events of these kinds while the block runs, or until the plugin stops."""
        self._check_running()
        with self._around.bus.subscribe(*kinds, max_queued=max_queued) as events:
            self._subscriptions.add(events)
            try:
                yield events
            finally:
                self._subscriptions.discard(events)

    @property
    def draining(self) -> bool:
        """Whether the node is draining and refuses new work."""
        return self._around.drain.active

    def work(self, what: str) -> AbstractContextManager[None]:
        """Count work that a drain waits for; ShuttingDown while the node drains."""
        return self._around.drain.work(self._name, what)

    def protocols(self) -> Iterator[Any]:
        """Wire protocols of running plugins."""
        return self._around.protocols()

    def routes(self) -> tuple[tuple[str, HttpRoute], ...]:
        """(plugin, HTTP route) of running plugins."""
        return self._around.routes()

    def metrics(self) -> list[Metric]:
        """Every metric of the node, as it is now."""
        return self._around.metrics()

    @property
    def control(self) -> ControlDoor:
        """The control API, from inside."""
        if self._around.control is None:
            raise Unavailable("this node has no control methods")
        return self._around.control

    def sockets(self) -> list[socket.socket]:
        """Duplicates of the plugin's sockets from the service manager."""
        return [sock.dup() for sock in self._around.sockets.get(self._name, ())]

    def decide(self, hook: str, **arguments: Any) -> Any:
        """The first opinion of the policy hooks, or None."""
        return self._around.decide(hook, **arguments)

    def db(
        self, migrations: Mapping[int, str], *, name: str = ""
    ) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        """A SQLite database of the plugin's own; see `aitorrentd.kernel.context.database`."""
        return open_database(self.data_dir / f"{name or self._name}.sqlite", migrations)

    async def spawn_worker(
        self, entry: str, *, name: str, env: Mapping[str, str] | None = None, sandbox: bool = False
    ) -> Worker:
        """Start a worker process that ends with the plugin."""
        self._check_running()
        worker = await self._around.spawn_worker(entry, name=name, env=env, sandbox=sandbox)
        if self._ended:
            worker.kill()
            self._check_running()
        self._workers.add(worker)
        worker.closed.add_done_callback(lambda _: self._workers.discard(worker))
        return worker

    def _check_running(self) -> None:
        if self._ended:
            raise Unavailable(f"plugin {self._name} is no longer running", plugin=self._name)

    def end(self) -> None:
        """Withdraw services and subscriptions; what remains of the plugin gets nothing new."""
        self._ended = True
        self._around.services.withdraw(self._name)
        for subscription in self._subscriptions:
            subscription.end()
        self._around.changed()

    def kill_workers(self) -> None:
        """Kill the plugin's worker processes at once."""
        for worker in list(self._workers):
            worker.kill()

    async def close_workers(self) -> None:
        """Stop the plugin's worker processes gracefully, then by force."""
        closing = [asyncio.ensure_future(worker.close()) for worker in list(self._workers)]
        if not closing:
            return
        try:
            await asyncio.wait(closing, timeout=WORKER_CLOSE_S)
        finally:
            self.kill_workers()
            for task in closing:
                task.cancel()
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(error, BaseException):
                self._log.warning("a worker did not close cleanly: %s", reason(error))
