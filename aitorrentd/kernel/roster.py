"""Which plugins exist and what they wait for: queries on a node's plugins, without side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aitorrentd.errors import NotFound
from aitorrentd.kernel.context.services import Services
from aitorrentd.kernel.order import Plan, plan
from aitorrentd.kernel.states import ACTIVE, COMING, OUT, Plugin, PluginState
from aitorrentd.kernel.supervisor import Obstacle
from aitorrentd.validation import nearest_plugin


class Roster:
    """The plugins of a node by rank, and what follows from their states."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._plugins: dict[str, Plugin] = {}
        self._plan: Plan | None = None

    def __iter__(self) -> Iterator[Plugin]:
        return iter(self._plugins.values())

    def names(self) -> list[str]:
        """By rank."""
        return list(self._plugins)

    def fill(self, plugins: Iterable[Plugin]) -> None:
        """Set the plugins that were found."""
        self._plugins = {plugin.name: plugin for plugin in plugins}
        self.stale()

    def stale(self) -> None:
        """A state changed: recompute the plan at its next use."""
        self._plan = None

    def find(self, name: str) -> Plugin | None:
        """The plugin, or None."""
        return self._plugins.get(name)

    def get(self, name: str) -> Plugin:
        """The plugin.

        Raises:
            NotFound: none of that name is installed.
        """
        if (plugin := self._plugins.get(name)) is not None:
            return plugin
        near = nearest_plugin(str(name), self.names())
        hint = f"did you mean {near}?" if near else "`aitorrentctl plugin list` shows all"
        raise NotFound(f"no plugin {str(name)[:80]!r} is installed; {hint}")

    def claimant(self, key: str) -> Plugin | None:
        """The plugin that provides, or would provide, service `key`: an active one keeps it,
        otherwise the one of lowest rank."""
        able = [p for p in self if key in p.provides() and p.state not in OUT]
        return next((p for p in able if p.state in ACTIVE), able[0] if able else None)

    @property
    def plan(self) -> Plan:
        """Which plugin starts after which, by the current states."""
        if self._plan is None:
            self._plan = plan(self._edges(Plugin.requires), self._edges(Plugin.wants))
        return self._plan

    def _edges(self, keys: Callable[[Plugin], frozenset[str]]) -> dict[str, set[str]]:
        edges: dict[str, set[str]] = {}
        for plugin in self:
            if plugin.state not in OUT:
                claimants = (self.claimant(key) for key in keys(plugin))
                edges[plugin.name] = {c.name for c in claimants if c is not None}
        return edges

    def needs(self, name: str, other: str) -> bool:
        """Whether plugin `name` requires `other`, directly or transitively."""
        edges = self._edges(Plugin.requires)
        reached, todo = set[str](), [name]
        while todo:
            for needed in edges.get(todo.pop(), set()) - reached:
                reached.add(needed)
                todo.append(needed)
        return other in reached

    def obstacle(self, plugin: Plugin) -> Obstacle | None:
        """Why `plugin` cannot start now."""
        if (loop := self.plan.loops.get(plugin.name)) is not None:
            return Obstacle(f"loop: {loop}")
        for key in sorted(plugin.provides()):
            holder = self.claimant(key)
            if holder is not None and holder is not plugin:
                return Obstacle(f"plugin {holder.name} already provides {key}; disable one of them")
        waiting: Obstacle | None = None
        for key in sorted(plugin.requires()):
            if self._has(key):
                continue
            obstacle = self._missing(key)
            if not obstacle.passing:
                return obstacle
            waiting = obstacle
        after = self.plan.after.get(plugin.name, frozenset())
        for key in sorted(plugin.wants()):
            claimant = self.claimant(key)
            if claimant is not None and claimant.name in after and claimant.state in COMING:
                waiting = Obstacle(f"waits for {key} of plugin {claimant.name}", passing=True)
        return waiting

    def lost(self, plugin: Plugin) -> str:
        """What `plugin` requires and lacks; empty if it has everything."""
        for key in sorted(plugin.requires()):
            if not self._has(key):
                return self._missing(key).text
        return ""

    def _missing(self, key: str) -> Obstacle:
        # Without an active or coming plugin that provides it, one that is out may still declare it.
        claimant = self.claimant(key) or next((p for p in self if key in p.provides()), None)
        if claimant is None:
            # Not imported, so nobody knows what they would provide.
            off = [p.name for p in self if p.state is PluginState.DISABLED and p.info is None]
            suspects = f"; disabled: {', '.join(off)}" if off else ""
            return Obstacle(f"needs {key}, which no enabled plugin provides{suspects}")
        if claimant.state in COMING:
            return Obstacle(f"needs {key} of plugin {claimant.name}", passing=True)
        if claimant.state is PluginState.RUNNING:
            return Obstacle(f"needs {key}, which plugin {claimant.name} does not provide yet")
        remedy = ""
        if claimant.state is PluginState.DISABLED:
            remedy = f"; enable it: aitorrentctl plugin enable {claimant.name}"
        return Obstacle(
            f"needs {key} of plugin {claimant.name}, which is {claimant.state.value}{remedy}"
        )

    def _has(self, key: str) -> bool:
        provider = self.find(self._services.provider(key) or "")
        return provider is not None and provider.state is PluginState.RUNNING

    def in_use(self, plugin: Plugin, *, stopping: Callable[[Plugin], bool]) -> bool:
        """Whether any plugin that must stop before `plugin` is still active.

        These are the plugins that require it, and those `stopping` that only want it.
        """
        edges = self._edges(Plugin.requires)
        return any(
            other.state in ACTIVE
            and plugin.name in self.plan.after.get(other.name, ())
            and (plugin.name in edges[other.name] or stopping(other))
            for other in self
            if other is not plugin
        )
