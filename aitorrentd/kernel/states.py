"""What the kernel knows about a plugin: its states, and its row in `plugin list`.

```
found → loaded → configured → starting → running → stopping → stopped
   ↘ broken (import, declaration)   ↘ invalid (settings)   ↘ failed (crash, may be restarted)
any → blocked (needs X) | skipped (not here) | disabled
```
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from aitorrentd.api.plugin import PluginConfig, PluginInfo

if TYPE_CHECKING:
    from aitorrentd.kernel.context.context import Context
    from aitorrentd.kernel.found import PluginSource
    from aitorrentd.kernel.hooks import Contributions


class PluginState(StrEnum):
    """A plugin's state."""

    FOUND = "found"
    LOADED = "loaded"
    CONFIGURED = "configured"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    BROKEN = "broken"
    INVALID = "invalid"
    FAILED = "failed"
    BLOCKED = "blocked"
    SKIPPED = "skipped"
    DISABLED = "disabled"


ACTIVE: Final = frozenset({PluginState.STARTING, PluginState.RUNNING, PluginState.STOPPING})
"The plugin's code is running."
COMING: Final = frozenset({PluginState.CONFIGURED, PluginState.STARTING})
"Starting up: plugins that need its services wait for it."
SETTLED: Final = frozenset(PluginState) - {
    PluginState.FOUND,
    PluginState.LOADED,
    PluginState.CONFIGURED,
    PluginState.STARTING,
    PluginState.STOPPING,
}
"Settled: nothing changes without a new cause."
OUT: Final = frozenset(
    {
        PluginState.FOUND,
        PluginState.LOADED,
        PluginState.BROKEN,
        PluginState.INVALID,
        PluginState.SKIPPED,
        PluginState.DISABLED,
    }
)
"Inactive: another plugin may provide its services."


@dataclass(frozen=True, slots=True)
class PluginRow:
    """A plugin, for display."""

    name: str
    summary: str
    tier: str
    "builtin or third-party."
    dist: str
    version: str
    state: str
    detail: str
    "Why it is in that state; empty if there is nothing to say."
    since_s: float
    "Seconds in that state."
    restarts: int
    "Restarts after a failure since the daemon started."
    provides: tuple[str, ...]
    requires: tuple[str, ...]
    wants: tuple[str, ...]
    start_s: float | None
    "Seconds that the last start took; None before the first."


@dataclass(slots=True, eq=False)
class Plugin:
    """The kernel's record of a plugin; everything but `source` and `rank` changes."""

    source: PluginSource
    rank: int
    "The lower rank wins when two plugins claim the same thing: built-in ones first, then by name."
    state: PluginState = PluginState.FOUND
    detail: str = ""
    since: float = 0.0
    "Clock reading of the last state change."
    instance: object | None = None
    info: PluginInfo | None = None
    config: PluginConfig | None = None
    context: Context | None = None
    "Of the current run."
    contributions: Contributions | None = None
    "Of the current run, while it is running."
    restarts: int = 0
    start_s: float | None = None
    waits: int = 0
    "Failures in a row that were the environment's, such as a full disk."
    gave_up: bool = False
    "Failed, and will not be restarted automatically."

    @property
    def name(self) -> str:
        """As in the configuration."""
        return self.source.name

    def provides(self) -> frozenset[str]:
        """Names of the services that it declares."""
        return frozenset(k.name for k in self.info.provides) if self.info else frozenset()

    def requires(self) -> frozenset[str]:
        """Names of the services without which it does not run."""
        return frozenset(k.name for k in self.info.requires) if self.info else frozenset()

    def wants(self) -> frozenset[str]:
        """Names of the services that it uses if present."""
        return frozenset(k.name for k in self.info.wants) if self.info else frozenset()

    def row(self, now: float) -> PluginRow:
        """The record for display; `now` is the clock's monotonic reading."""
        return PluginRow(
            name=self.name,
            summary=self.info.summary if self.info else "",
            tier=self.source.tier,
            dist=self.source.dist,
            version=self.source.version,
            state=self.state.value,
            detail=self.detail,
            since_s=max(0.0, now - self.since),
            restarts=self.restarts,
            provides=tuple(sorted(self.provides())),
            requires=tuple(sorted(self.requires())),
            wants=tuple(sorted(self.wants())),
            start_s=self.start_s,
        )
