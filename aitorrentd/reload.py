"""Putting a changed configuration into force while the node runs.

The log level and everything about plugins changes live; the rest is read once, at the start, and
is reported as needing a restart of the daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aitorrentd.config import Config, plan_setting, write_setting
from aitorrentd.config.documents import key_text
from aitorrentd.config.plugin_tables import all_problems, plugin_problems
from aitorrentd.errors import ConfigError, Conflict
from aitorrentd.logs import set_level

if TYPE_CHECKING:
    from aitorrentd.host import Host
    from aitorrentd.kernel.states import PluginRow

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did; keys as people write them."""

    changed: tuple[str, ...]
    applied: tuple[str, ...]
    restart: tuple[str, ...]
    not_running: tuple[str, ...]


def differences(old: Any, new: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Paths of the values that differ between two trees; a missing table is an empty one."""
    if isinstance(old, Mapping | None) and isinstance(new, Mapping | None) and old != new:
        old, new = old or {}, new or {}
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), (*path, k))]
    return [] if old == new else [path]


async def reload(host: Host) -> Reloaded:
    """Read the configuration files again and put in force what can be changed live.

    Raises:
        ConfigError: they are not valid, or a plugin's changed table is not; then nothing changed.
    """
    async with host.changing:
        try:
            new = await asyncio.to_thread(host.config.reloaded)
        except ConfigError as e:
            wrong = await all_problems(e, host.sources)
            raise ConfigError("; ".join(wrong), problems=tuple(wrong)) from None
        await _check_plugins(host, new)
        return await put_in_force(host, new)


async def change_setting(host: Host, key: str, value: Any) -> Reloaded:
    """Write one setting to the drop-in file and put it in force.

    Raises:
        ConfigError: the configuration would not be valid. Denied: the file is not writable.
    """
    async with host.changing:
        planned, _, _ = await asyncio.to_thread(plan_setting, host.config, key, value)
        await _check_plugins(host, planned)
        written = await asyncio.to_thread(write_setting, host.config, key, value)
        return await put_in_force(host, written)


async def _check_plugins(host: Host, new: Config) -> None:
    """Raises ConfigError when a plugin's table that changed does not fit: what runs goes on."""
    held = host.config.settings.plugins
    touched = {n: table for n, table in new.settings.plugins.items() if table != held.get(n)}
    if wrong := await plugin_problems(touched, host.sources):
        raise ConfigError("; ".join(wrong), problems=tuple(wrong))


async def switch_plugin(host: Host, name: str, *, enabled: bool) -> None:
    """Start or stop a plugin, now and, where there is a file, after a restart too.

    Raises:
        NotFound: no such plugin. Conflict: it is required. Denied: the file is not writable.
    """
    host.kernel.row(name)
    if name in host.config.settings.required and not enabled:
        raise Conflict(f"plugin {name} is listed in `required`; take it out there first")
    if host.config.source is not None:
        done = await change_setting(host, f"plugins.{name}.enabled", enabled)
        if done.changed:
            return
    await (host.kernel.enable(name) if enabled else host.kernel.disable(name))


async def put_in_force(host: Host, new: Config) -> Reloaded:
    """Make `new` the configuration of the running node, as far as that goes without a restart.

    Plugins whose table changed are restarted, enabled or disabled; what goes wrong with one of
    them shows in its state.
    """
    old = host.config
    changed = [d for d in differences(_whole(old), _whole(new)) if d]
    live = {d for d in changed if d == ("log", "level") or d[0] == "plugins"}
    host.redactor.add(new.secrets)
    host.config = new
    if ("log", "level") in live:
        set_level(new.settings.log.level)
    names = dict.fromkeys(d[1] for d in changed if d[0] == "plugins" and len(d) > 1)
    known = {row.name for row in host.kernel.rows()}
    for name in names:
        if name in known:
            await _reconfigure(host, name, old, new)
    ill = {r.name for r in host.kernel.rows() if r.state not in ("running", "disabled")}
    return Reloaded(
        changed=tuple(key_text(d) for d in changed),
        applied=tuple(key_text(d) for d in changed if d in live),
        restart=tuple(key_text(d) for d in changed if d not in live),
        not_running=tuple(_plight(host.kernel.row(name)) for name in names if name in ill),
    )


def _plight(row: PluginRow) -> str:
    return f"plugin {row.name} is {row.state}: {row.detail}"


def _whole(config: Config) -> dict[str, Any]:
    # With secrets in place: a changed secret is a change, and only paths leave this module.
    return config.settings.model_dump(mode="json")


async def _reconfigure(host: Host, name: str, old: Config, new: Config) -> None:
    was, is_now = (c.settings.plugins.get(name, {}).get("enabled", True) for c in (old, new))
    host.kernel.configure(name, new.settings.plugins.get(name, {}))
    if is_now is False:
        await host.kernel.disable(name)
    elif was is False:
        await host.kernel.enable(name)
    else:
        await host.kernel.restart(name)
