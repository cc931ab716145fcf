"""Plugins that the daemon cannot do without: reports when one is permanently lost."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aitorrentd.kernel.roster import Roster
from aitorrentd.kernel.states import Plugin, PluginState

NEVER: Final = frozenset(
    {PluginState.BROKEN, PluginState.INVALID, PluginState.SKIPPED, PluginState.DISABLED}
)
"States that a plugin does not leave without intervention."


class Required:
    """Watches the plugins named in `required:`."""

    def __init__(self, names: tuple[str, ...], roster: Roster, log: logging.Logger) -> None:
        self.names = names
        self._roster = roster
        self._log = log
        self._fatal: asyncio.Future[str] | None = None

    @property
    def fatal(self) -> asyncio.Future[str]:
        """Resolves, with a sentence, when one of them is permanently lost."""
        if self._fatal is None:
            self._fatal = asyncio.get_running_loop().create_future()
        return self._fatal

    def look(self, plugin: Plugin, *, starting: bool) -> None:
        """`plugin` entered a state.

        While the daemon is `starting`, a required plugin's first failure counts: the operator wants
        to know at once that a port is taken.
        """
        failed = plugin.state is PluginState.FAILED
        if plugin.name in self.names:
            if plugin.state in NEVER or (failed and (plugin.gave_up or starting)):
                self._report(_lost(plugin))
        elif failed and plugin.gave_up and not starting:
            for name in self.names:
                if self._roster.needs(name, plugin.name):
                    self._report(f"required plugin {name} cannot continue: {_about(plugin)}")

    def look_at_all(self) -> None:
        """The start is over: every required plugin must be running."""
        for name in self.names:
            plugin = self._roster.find(name)
            if plugin is None:
                self._report(f"required plugin {name} is not installed")
            elif plugin.state is not PluginState.RUNNING:
                self._report(_lost(plugin))

    def _report(self, text: str) -> None:
        if not self.fatal.done():
            self._log.error("%s", text)
            self.fatal.set_result(text)


def _about(plugin: Plugin) -> str:
    detail = f": {plugin.detail}" if plugin.detail else ""
    return f"plugin {plugin.name} is {plugin.state.value}{detail}"


def _lost(plugin: Plugin) -> str:
    return f"required {_about(plugin)}"
