"""What running plugins contribute: methods, routes, protocols, checks and health warnings."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from aitorrentd.api.faces.routes import HttpRoute, collide
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.network.transport import WireProtocol
from aitorrentd.api.plugin import Check, HealthWarning, Method
from aitorrentd.errors import MethodNotFound, PluginError, Unavailable
from aitorrentd.kernel.context.context import Context
from aitorrentd.kernel.hooks import Contributions, Hooks, Misdeclared
from aitorrentd.kernel.roster import Roster
from aitorrentd.kernel.states import Plugin, PluginState

WRONG: Final = frozenset({PluginState.BROKEN, PluginState.INVALID, PluginState.FAILED})
"States that need the operator's attention."


class Served:
    """The contributions of the running plugins."""

    def __init__(self, roster: Roster, hooks: Hooks) -> None:
        self._roster = roster
        self._hooks = hooks
        self._methods: dict[str, tuple[str, Method]] = {}
        self._listed: tuple[tuple[str, Method], ...] = ()
        self._routes: tuple[tuple[str, HttpRoute], ...] = ()

    def add(self, plugin: Plugin, context: Context) -> None:
        """Collect the contributions of a plugin that has just started, and serve them from now on.

        Raises:
            Misdeclared: it breaks the rules, or another plugin serves the same protocol or path.
        """
        added = self._hooks.contributions(plugin.name, context)
        taken = {protocol.id: name for name, protocol in self.protocols()}
        for protocol in added.protocols:
            if protocol.id in taken:
                raise Misdeclared(
                    f"protocol {protocol.id} is already handled by plugin {taken[protocol.id]}"
                )
        for name, theirs in self.routes():
            for route in added.routes:
                if collide(route, theirs):
                    raise Misdeclared(
                        f"route {route.path} is already served by plugin {name} as {theirs.path}"
                    )
        self._check_families(plugin)
        plugin.contributions = added
        self._list()

    def _check_families(self, plugin: Plugin) -> None:
        mine = {family.base for family in plugin.info.metrics} if plugin.info else set()
        for other, _, _ in self._running():
            for family in other.info.metrics if other.info else ():
                if family.base in mine:
                    raise Misdeclared(
                        f"metric {family.name} is already declared by plugin {other.name}"
                    )

    def remove(self, plugin: Plugin) -> None:
        """Stop serving anything of `plugin`."""
        plugin.contributions = None
        self._list()

    def _list(self) -> None:
        self._routes = tuple(
            (plugin.name, route) for plugin, _, added in self._running() for route in added.routes
        )
        self._methods = {
            method.name: (plugin.name, method)
            for plugin, _, added in self._running()
            for method in added.methods
        }
        self._listed = tuple(self._methods.values())

    def _running(self) -> Iterator[tuple[Plugin, Context, Contributions]]:
        for plugin in self._roster:
            if plugin.contributions is not None and plugin.context is not None:
                yield plugin, plugin.context, plugin.contributions

    def methods(self) -> tuple[tuple[str, Method], ...]:
        """(plugin, method): the same tuple until a plugin starts or stops."""
        return self._listed

    def method(self, name: str) -> tuple[str, Method]:
        """The plugin that serves control method `name`, and the method.

        Raises:
            MethodNotFound: no such method. Unavailable: its plugin is not running.
        """
        if (found := self._methods.get(name)) is not None:
            return found
        plugin = self._roster.find(name.partition(".")[0])
        if plugin is not None and plugin.contributions is None:
            raise Unavailable(
                f"plugin {plugin.name} is {plugin.state.value}{_why(plugin)}",
                plugin=plugin.name,
                state=plugin.state.value,
            )
        near = get_close_matches(name[:200], self._methods, n=1)
        hint = f"did you mean {near[0]}?" if near else "see aitorrentctl rpc list"
        raise MethodNotFound(f"no method {name[:200]!r}; {hint}")

    def protocols(self) -> list[tuple[str, WireProtocol]]:
        """(plugin, protocol)."""
        return [(p.name, each) for p, _, added in self._running() for each in added.protocols]

    def routes(self) -> tuple[tuple[str, HttpRoute], ...]:
        """(plugin, HTTP route): the same tuple until a plugin starts or stops."""
        return self._routes

    def metrics(self) -> Iterator[tuple[str, list[Metric] | None]]:
        """(plugin, what it measures now); None for a plugin whose metrics cannot be read."""
        for plugin, context, _ in list(self._running()):
            declared = plugin.info.metrics if plugin.info else ()
            if declared:
                try:
                    yield plugin.name, self._hooks.metrics(plugin.name, context, declared)
                except PluginError:
                    yield plugin.name, None

    def checks(self) -> list[tuple[str, Check]]:
        """(plugin, doctor check)."""
        return [(p.name, each) for p, _, added in self._running() for each in added.checks]

    def health(self) -> list[tuple[str, HealthWarning]]:
        """(plugin, warning): warnings about plugins, then the plugins' own."""
        found: list[tuple[str, HealthWarning]] = []
        for plugin in self._roster:
            text = f"plugin {plugin.name} is {plugin.state.value}: {plugin.detail}"
            code = f"plugin_{plugin.state.value}"
            if plugin.state in WRONG:
                found.append((plugin.name, HealthWarning(code, text, "error")))
            elif plugin.state is PluginState.BLOCKED:
                found.append((plugin.name, HealthWarning(code, text)))
        for plugin, context, _ in self._running():
            warnings = self._hooks.health(plugin.name, context)
            found += [(plugin.name, warning) for warning in warnings]
        return found


def _why(plugin: Plugin) -> str:
    """What follows the state of a plugin whose methods cannot be called."""
    if plugin.detail:
        return f": {plugin.detail}"
    if plugin.state is PluginState.DISABLED:
        return f"; enable it: aitorrentctl plugin enable {plugin.name}"
    return ", so its methods cannot be called"
