"""The active plugins of a node: each with its supervisor, its runs and its state.

Implements what supervisors need from the kernel (`KernelEvents`), and controls the supervisors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from aitorrentd.api.events import PluginChanged
from aitorrentd.kernel.context.context import Context, Surroundings
from aitorrentd.kernel.contributions import WRONG, Served
from aitorrentd.kernel.hooks import Hooks
from aitorrentd.kernel.required import Required
from aitorrentd.kernel.roster import Roster
from aitorrentd.kernel.run import PluginTasks, Run
from aitorrentd.kernel.states import SETTLED, Plugin, PluginState
from aitorrentd.kernel.supervisor import Changes, Limits, Obstacle, Supervisor


class Fleet:
    """Starts, supervises and stops the plugins of a roster."""

    def __init__(
        self,
        roster: Roster,
        hooks: Hooks,
        served: Served,
        required: Required,
        around: Surroundings,
        *,
        changed: Changes,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self.limits, self.clock, self.random = limits, around.clock, around.random
        self.log, self.changed = log, changed
        self.starting = False
        "The kernel is starting: a required plugin's first failure counts."
        self.stopping = False
        self._roster, self._hooks = roster, hooks
        self._served, self._required = served, required
        self._around = around
        self._supervisors: dict[str, tuple[Supervisor, asyncio.Task[None]]] = {}
        self._abandoned: dict[str, asyncio.Task[None]] = {}

    # Used by the kernel

    def launch(self, plugin: Plugin) -> None:
        """Give a configured plugin a supervisor, which starts it as soon as possible."""
        if plugin.state is not PluginState.CONFIGURED or self.stopping:
            return
        old = self._abandoned.get(plugin.name)
        if old is not None and not old.done():
            text = "its previous run has not stopped; restart the daemon"
            self.set_state(plugin, PluginState.FAILED, text)
            return
        plugin.gave_up, plugin.waits = False, 0
        supervisor = Supervisor(plugin, self)
        task = asyncio.create_task(supervisor.run(), name=f"supervise:{plugin.name}")
        task.add_done_callback(lambda t: self._supervised(plugin, t))
        self._supervisors[plugin.name] = (supervisor, task)

    def _supervised(self, plugin: Plugin, task: asyncio.Task[None]) -> None:
        """A supervisor ended; with an error only if the kernel itself is at fault."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.critical("supervising %s failed", plugin.name, exc_info=error)
            plugin.gave_up = True
            self.set_state(plugin, PluginState.FAILED, "an internal error; see the log")
        self.changed.tell()

    async def settled(self, plugin: Plugin) -> None:
        """Wait until `plugin` settles; bounded by the start timeouts of it and its dependencies."""
        while plugin.state not in SETTLED and not self.stopping:
            await self.changed.wait()

    async def halt(self, name: str) -> None:
        """Stop a plugin, after its dependents, and remove its supervisor."""
        entry = self._supervisors.get(name)
        if entry is not None:
            supervisor, task = entry
            supervisor.ask_to_stop()
            await asyncio.wait({task})
            del self._supervisors[name]

    async def stop(self, commands: Collection[asyncio.Task[object]]) -> None:
        """Stop every plugin, each after its dependents; `commands` in progress end with them."""
        self.stopping = True
        for supervisor, _ in self._supervisors.values():
            supervisor.ask_to_stop()
        self.changed.tell()
        if tasks := {task for _, task in self._supervisors.values()}.union(commands):
            await asyncio.wait(tasks)
        for plugin in self._roster:
            if plugin.state not in SETTLED or plugin.state is PluginState.BLOCKED:
                self.set_state(plugin, PluginState.STOPPED)

    # Used by supervisors

    def set_state(self, plugin: Plugin, state: PluginState, detail: str = "") -> None:
        """Enter a state and notify everyone; does nothing if it is the current state."""
        if (plugin.state, plugin.detail) == (state, detail):
            return
        now = self.clock.monotonic()
        entered = plugin.state is not state
        if entered:
            if state is PluginState.RUNNING:
                plugin.start_s = now - plugin.since
            plugin.since = now
        plugin.state, plugin.detail = state, detail
        self._roster.stale()
        self.log.log(
            _log_level(plugin, entered=entered),
            "plugin %s%s is %s%s",
            plugin.name,
            # Users look up a plugin that cannot be imported by its distribution.
            f" of {plugin.source.dist}" if state is PluginState.BROKEN else "",
            state.value,
            f": {detail}" if detail else "",
        )
        self._around.bus.publish(PluginChanged(plugin.name, state.value, detail))
        if not self.stopping:
            self._required.look(plugin, starting=self.starting)
        self.changed.tell()

    def obstacle(self, plugin: Plugin) -> Obstacle | None:
        """Why `plugin` cannot start now."""
        return self._roster.obstacle(plugin)

    def lost(self, plugin: Plugin) -> str:
        """Services that `plugin` requires and has lost."""
        return self._roster.lost(plugin)

    def in_use(self, plugin: Plugin) -> bool:
        """Whether plugins that stop before `plugin` are still running."""
        return self._roster.in_use(plugin, stopping=self._is_stopping)

    def _is_stopping(self, plugin: Plugin) -> bool:
        supervisor, _ = self._supervisors.get(plugin.name, (None, None))
        return supervisor is not None and supervisor.stop_requested

    def begin(self, plugin: Plugin) -> Run:
        """Start a run of `plugin` with its own context."""
        tasks = PluginTasks(plugin.name)
        context = Context(plugin.name, plugin.config, plugin.provides(), tasks, self._around)
        run = Run(
            context,
            tasks,
            enter=lambda: self._hooks.lifespan(plugin.name, context),
            declare=lambda: self._served.add(plugin, context),
            changed=self.changed.tell,
        )
        plugin.context = context
        self.set_state(plugin, PluginState.STARTING)
        run.begin()
        return run

    def retire(self, plugin: Plugin) -> None:
        """Stop serving anything of `plugin`."""
        self._served.remove(plugin)

    def abandon(self, plugin: Plugin, run: Run) -> None:
        """Abandon a run that does not end, without services and workers."""
        self.log.error("plugin %s ignores cancellation", plugin.name)
        run.context.end()
        run.context.kill_workers()
        if run.task is not None:
            self._abandoned[plugin.name] = run.task


def _log_level(plugin: Plugin, *, entered: bool) -> int:
    """The log level for a state; INFO for a plugin that settled in a new one."""
    if plugin.state is PluginState.FAILED:
        # each failure was already logged with its traceback
        if plugin.gave_up:
            return logging.ERROR
        return logging.DEBUG if plugin.waits > 1 else logging.INFO
    if plugin.state in WRONG:
        return logging.ERROR
    return logging.INFO if entered and plugin.state in SETTLED else logging.DEBUG
