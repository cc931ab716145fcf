"""The kernel of a node: one set of plugins, from discovery to shutdown.

A broken, slow, crashing, misconfigured or wrongly declared plugin never takes down another plugin
or the daemon. It only becomes a row in `plugin list` that says why. The one exception is a plugin
named in `required:`: its loss resolves `Kernel.fatal`, and the node decides what follows.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from aitorrentd.api.context import Clock, ControlDoor, Signer
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.network.transport import WireProtocol
from aitorrentd.api.plugin import Check, HealthWarning, Method
from aitorrentd.api.services import ServiceKey
from aitorrentd.api.workers import Worker
from aitorrentd.errors import Conflict, ShuttingDown
from aitorrentd.kernel import measuring
from aitorrentd.kernel.context.bus import EventBus
from aitorrentd.kernel.context.context import Surroundings, SystemClock
from aitorrentd.kernel.context.drain import Drain
from aitorrentd.kernel.context.services import Services
from aitorrentd.kernel.contributions import Served
from aitorrentd.kernel.fleet import Fleet
from aitorrentd.kernel.found import PluginSource, ranked
from aitorrentd.kernel.hooks import Hooks
from aitorrentd.kernel.prepare import configure, is_switched_off, load_plugin, unknown_tables
from aitorrentd.kernel.required import NEVER, Required
from aitorrentd.kernel.roster import Roster
from aitorrentd.kernel.states import Plugin, PluginRow, PluginState
from aitorrentd.kernel.supervisor import Changes, Limits

T = TypeVar("T")


@dataclass(frozen=True)
class KernelSettings:
    """What the node passes to its kernel."""

    plugins: Mapping[str, Mapping[str, Any]]
    "The raw settings table of each plugin; validated by the plugin's own model."
    required: tuple[str, ...]
    "Plugins without which the daemon must not run."
    network: str
    data_dir: Path
    cache_dir: Path
    runtime_dir: Path
    spawn_worker: Callable[..., Awaitable[Worker]]
    "`(entry, *, name, env) -> Worker`."
    node_name: str = ""
    "The operator's name for the node; empty = none."
    control: ControlDoor | None = None
    "How plugins call control methods."
    sockets: Mapping[str, Sequence[socket.socket]] = field(default_factory=dict)
    "Listening sockets from the service manager, by the plugin that they are for."
    metrics: Callable[[], Iterable[Metric]] = tuple
    "What the node itself measures."


class Kernel:
    """Finds, configures, starts, watches and stops the plugins of one node.

    Created and used inside one event loop; several kernels in one process are independent.
    """

    def __init__(
        self,
        *,
        settings: KernelSettings,
        identity: Signer,
        sources: Sequence[PluginSource] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        log: logging.Logger | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`sources` None means the installed plugins, found by their entry points."""
        self.settings = settings
        self.limits = limits or Limits()
        self.clock: Clock = clock or SystemClock()
        self.log = log or logging.getLogger("aitorrentd.kernel")
        self.bus = EventBus()
        self.drain = Drain()
        self._sources = sources
        self._services = Services()
        self._hooks = Hooks(self.log, self.clock)
        self._roster = Roster(self._services)
        self._tables: dict[str, Any] = dict(settings.plugins)
        self._problems: tuple[tuple[str, str], ...] = ()
        self._served = Served(self._roster, self._hooks)
        self._required = Required(settings.required, self._roster, self.log)
        self._locks: dict[str, asyncio.Lock] = {}
        self._commands: set[asyncio.Task[Any]] = set()
        self._started = False
        changed = Changes()
        around = Surroundings(
            identity=identity,
            clock=self.clock,
            random=rng or random.Random(),
            network=settings.network,
            node_name=settings.node_name,
            data_dir=settings.data_dir,
            cache_dir=settings.cache_dir,
            runtime_dir=settings.runtime_dir,
            spawn_worker=settings.spawn_worker,
            bus=self.bus,
            services=self._services,
            control=settings.control,
            sockets=settings.sockets,
            routes=self.routes,
            metrics=self.metrics,
            protocols=lambda: iter([p for _, p in self.protocols()]),
            decide=self._decide,
            changed=changed.tell,
            drain=self.drain,
        )
        self._fleet = Fleet(
            self._roster,
            self._hooks,
            self._served,
            self._required,
            around,
            changed=changed,
            limits=self.limits,
            log=self.log,
        )

    @property
    def fatal(self) -> asyncio.Future[str]:
        """Resolves, with a sentence, when a required plugin is permanently lost."""
        return self._required.fatal

    # Lifecycle

    async def __aenter__(self) -> Kernel:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Find, load, configure and start; returns when every plugin is in a settled state.

        A plugin that failed and will be restarted counts as settled.

        Raises:
            Conflict: it was already started.
        """
        if self._started:
            raise Conflict("this kernel has already run; create a new one")
        self._started = self._fleet.starting = True
        found = ranked(self._sources)
        self._roster.fill(
            Plugin(source, rank, since=self.clock.monotonic())
            for rank, source in enumerate(found.sources)
        )
        self._problems = found.problems + unknown_tables(self._tables, self._roster.names())
        for _, text in self._problems:
            self.log.warning("%s", text)
        for plugin in self._roster:
            if not self._fleet.stopping:
                await self._prepare(plugin)
        # all are configured before the first starts, so that each knows its dependencies
        for plugin in self._roster:
            self._fleet.launch(plugin)
        for wish in self._roster.plan.opened:
            self.log.warning(
                "plugins want each other in a cycle; starting this one first: %s", wish
            )
        for plugin in self._roster:
            await self._fleet.settled(plugin)
        self._fleet.starting = False
        if not self._fleet.stopping:
            self._required.look_at_all()

    async def stop(self) -> None:
        """Stop every plugin, each after its dependents. May be called more than once."""
        await self._fleet.stop(self._commands)

    async def _prepare(self, plugin: Plugin) -> None:
        """Take `plugin` as far as it gets without running: CONFIGURED if all goes well."""
        table = self._tables.get(plugin.name)
        if is_switched_off(table):
            self._fleet.set_state(plugin, PluginState.DISABLED)
            return
        if plugin.instance is None:
            step = await load_plugin(plugin, self._hooks, timeout_s=self.limits.load_s)
            self._fleet.set_state(plugin, *step)
            if step[0] is not PluginState.LOADED:
                return
        self._fleet.set_state(plugin, *configure(plugin, table))

    # Commands

    async def enable(self, name: str) -> PluginRow:
        """Load and start a disabled plugin; a running one is left alone.

        Raises:
            NotFound: no such plugin. ShuttingDown: the daemon is stopping.
        """
        return await self._through(self._enable(self._at_work(name)))

    async def _enable(self, plugin: Plugin) -> PluginRow:
        async with self._lock(plugin.name):
            self._switch(plugin.name, on=True)
            if plugin.state in (NEVER | {PluginState.FOUND}):
                await self._again(plugin)
            return self.row(plugin.name)

    async def disable(self, name: str) -> PluginRow:
        """Stop a plugin, after its dependents, and disable it.

        Raises:
            NotFound: no such plugin. Conflict: it is required. ShuttingDown: the daemon is
            stopping.
        """
        plugin = self._at_work(name)
        if name in self._required.names:
            raise Conflict(f"plugin {name} is listed in `required`; remove it from there first")
        return await self._through(self._disable(plugin))

    async def _disable(self, plugin: Plugin) -> PluginRow:
        async with self._lock(plugin.name):
            self._switch(plugin.name, on=False)
            await self._fleet.halt(plugin.name)
            self._fleet.set_state(plugin, PluginState.DISABLED)
            return self.row(plugin.name)

    async def restart(self, name: str) -> PluginRow:
        """Restart a plugin: its dependents stop before it and start after it.

        Raises:
            NotFound: no such plugin. Conflict: it is disabled. ShuttingDown: the daemon is
            stopping.
        """
        plugin = self._at_work(name)
        if plugin.state is PluginState.DISABLED:
            raise Conflict(f"plugin {name} is disabled; enable it instead")
        return await self._through(self._restart(plugin))

    async def _restart(self, plugin: Plugin) -> PluginRow:
        async with self._lock(plugin.name):
            await self._fleet.halt(plugin.name)
            await self._again(plugin)
            return self.row(plugin.name)

    async def _through(self, command: Coroutine[Any, Any, PluginRow]) -> PluginRow:
        """Run a command to its end, even if its caller goes away in the middle."""
        task = asyncio.create_task(command, name="plugin command")
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        return await asyncio.shield(task)

    def _switch(self, name: str, *, on: bool) -> None:
        table = self._tables.get(name)
        if isinstance(table, Mapping) or table is None:
            self._tables[name] = {**(table or {}), "enabled": on}

    def configure(self, name: str, table: Mapping[str, Any]) -> None:
        """Replace a plugin's raw settings; they take effect at its next start.

        Raises:
            NotFound: no such plugin.
        """
        self._roster.get(name)
        self._tables[name] = dict(table)

    def _at_work(self, name: str) -> Plugin:
        if self._fleet.stopping:
            raise ShuttingDown("the daemon is stopping")
        return self._roster.get(name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _again(self, plugin: Plugin) -> None:
        await self._prepare(plugin)
        self._fleet.launch(plugin)
        await self._fleet.settled(plugin)

    # Views

    def service(self, key: ServiceKey[T]) -> T:
        """A service of a plugin; Unavailable if none provides it now."""
        return self._services.service(key)

    def rows(self) -> list[PluginRow]:
        """Every plugin found, by rank."""
        now = self.clock.monotonic()
        return [plugin.row(now) for plugin in self._roster]

    def row(self, name: str) -> PluginRow:
        """One plugin; NotFound if none of that name is installed."""
        return self._roster.get(name).row(self.clock.monotonic())

    def config(self, name: str) -> Any:
        """A plugin's validated settings, None before it is configured; NotFound as in `row`."""
        return self._roster.get(name).config

    def methods(self) -> tuple[tuple[str, Method], ...]:
        """(plugin, method) of running plugins: the same tuple until a plugin starts or stops."""
        return self._served.methods()

    def method(self, name: str) -> tuple[str, Method]:
        """The plugin that serves control method `name`, and the method.

        Raises:
            MethodNotFound: no such method. Unavailable: its plugin is not running.
        """
        return self._served.method(name)

    def protocols(self) -> list[tuple[str, WireProtocol]]:
        """(plugin, protocol) of running plugins."""
        return self._served.protocols()

    def routes(self) -> tuple[tuple[str, HttpRoute], ...]:
        """(plugin, HTTP route) of running plugins."""
        return self._served.routes()

    def metrics(self) -> list[Metric]:
        """What the node and its running plugins measure now."""
        read = list(self._served.metrics())
        own = measuring.read(self.rows(), read, draining=self.drain.active)
        plugins = [metric for _, found in read for metric in found or ()]
        return [*self.settings.metrics(), *own, *plugins]

    def checks(self) -> list[tuple[str, Check]]:
        """(plugin, doctor check) of running plugins."""
        return self._served.checks()

    def health(self) -> list[tuple[str, HealthWarning]]:
        """(plugin, warning) of current problems: in the settings, of plugins, and by plugins."""
        unusable = [(name, HealthWarning("plugin_unusable", text)) for name, text in self._problems]
        return unusable + self._served.health()

    def _decide(self, hook: str, **arguments: Any) -> Any:
        return self._hooks.decide(hook, arguments, asked=self._is_running)

    def _is_running(self, name: str) -> bool:
        plugin = self._roster.find(name)
        return plugin is not None and plugin.state is PluginState.RUNNING
