"""Applies a changed configuration while the node runs.

The log level and everything about plugins change live; the rest is read once at startup, and
changes to it are reported as needing a daemon restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aitorrentd.config import Config, plan_setting, write_setting
from aitorrentd.config.load import located
from aitorrentd.config.plugin_tables import all_problems, plugin_problems
from aitorrentd.errors import ConfigError, Conflict
from aitorrentd.runtime.logs import set_level
from aitorrentd.setting_path import key_text
from aitorrentd.system.files import was_replaced_outside
from aitorrentd.validation import Problem

if TYPE_CHECKING:
    from aitorrentd.kernel.states import PluginRow
    from aitorrentd.runtime.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed; keys as users write them."""

    changed: tuple[str, ...]
    applied: tuple[str, ...]
    restart: tuple[str, ...]
    not_running: tuple[str, ...]


def differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of the values that differ between two trees; a missing table counts as empty."""
    if isinstance(old, Mapping | None) and isinstance(new, Mapping | None) and old != new:
        old, new = old or {}, new or {}
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), (*path, k))]
    return [] if old == new else [path]


def changed_keys(old: Config, new: Config) -> tuple[str, ...]:
    """Keys of the settings that differ, as users write them."""
    return tuple(key_text(d) for d in differences(_whole(old), _whole(new)) if d)


def replaced_outside(config: Config) -> list[str]:
    """Files whose old content is read, since they were mounted one by one and then replaced."""
    return [
        f"{file} is mounted as a single file and was replaced outside, so that only its old "
        "content can be read here; mount its directory instead, or restart the container"
        for file in config.files
        if was_replaced_outside(file)
    ]


async def reload(runtime: Runtime) -> Reloaded:
    """Read the configuration files again and apply what can change live.

    Raises:
        ConfigError: the files, or a plugin's changed table, are invalid; then nothing changes.
    """
    async with runtime.changing:
        try:
            new = await asyncio.to_thread(runtime.config.reloaded)
        except ConfigError as e:
            told = await all_problems(e, runtime.sources)
            raise ConfigError("; ".join(told), problems=tuple(told)) from None
        if told := await asyncio.to_thread(replaced_outside, new):
            raise ConfigError("; ".join(told), problems=tuple(told))
        if wrong := located(await _plugin_problems(runtime, new), new.merged):
            raise ConfigError("; ".join(wrong), problems=wrong)
        return await put_in_force(runtime, new)


async def change_setting(runtime: Runtime, key: str, value: Any) -> Reloaded:
    """Write one setting to the drop-in file and apply it.

    Raises:
        ConfigError: the configuration would be invalid. Denied: the file is not writable.
    """
    async with runtime.changing:
        planned, _, _ = await asyncio.to_thread(plan_setting, runtime.config, key, value)
        if wrong := await _plugin_problems(runtime, planned):
            # Without the location: the drop-in does not contain the setting yet.
            raise ConfigError("; ".join(map(str, wrong)), problems=tuple(map(str, wrong)))
        written = await asyncio.to_thread(write_setting, runtime.config, key, value)
        return await put_in_force(runtime, written)


async def _plugin_problems(runtime: Runtime, new: Config) -> list[Problem]:
    """Problems in the plugins' changed tables; errors there would stop running plugins."""
    held = runtime.config.settings.plugins
    touched = {n: table for n, table in new.settings.plugins.items() if table != held.get(n)}
    return await plugin_problems(touched, runtime.sources)


async def switch_plugin(runtime: Runtime, name: str, *, enabled: bool) -> None:
    """Start or stop a plugin now and, if there is a file, persistently.

    Raises:
        NotFound: no such plugin. Conflict: it is required. Denied: the file is not writable.
    """
    runtime.kernel.row(name)
    if name in runtime.config.settings.required and not enabled:
        raise Conflict(f"plugin {name} is listed in `required`; remove it from there first")
    if runtime.config.set_file is not None:
        done = await change_setting(runtime, f"plugins.{name}.enabled", enabled)
        if done.changed:
            return
    await (runtime.kernel.enable(name) if enabled else runtime.kernel.disable(name))


async def put_in_force(runtime: Runtime, new: Config) -> Reloaded:
    """Make `new` the configuration of the running node, as far as possible without a restart.

    Plugins whose table changed are restarted, enabled or disabled; a plugin's failure shows in its
    state.
    """
    old = runtime.config
    changed = [d for d in differences(_whole(old), _whole(new)) if d]
    live = {d for d in changed if d == ("log", "level") or d[0] == "plugins"}
    runtime.redactor.add(new.secrets)
    runtime.config = new
    if ("log", "level") in live:
        set_level(new.settings.log.level)
    names = dict.fromkeys(d[1] for d in changed if d[0] == "plugins" and len(d) > 1)
    known = {row.name for row in runtime.kernel.rows()}
    for name in names:
        if name in known:
            await _reconfigure(runtime, name, old, new)
    ill = {r.name for r in runtime.kernel.rows() if r.state not in ("running", "disabled")}
    return Reloaded(
        changed=tuple(key_text(d) for d in changed),
        applied=tuple(key_text(d) for d in changed if d in live),
        restart=tuple(key_text(d) for d in changed if d not in live),
        not_running=tuple(_plight(runtime.kernel.row(name)) for name in names if name in ill),
    )


def _plight(row: PluginRow) -> str:
    return f"plugin {row.name} is {row.state}: {row.detail}"


def _whole(config: Config) -> dict[str, Any]:
    # With secrets in place: a changed secret is a change, and only paths leave this module.
    return config.settings.model_dump(mode="json")


async def _reconfigure(runtime: Runtime, name: str, old: Config, new: Config) -> None:
    was, is_now = (c.settings.plugins.get(name, {}).get("enabled", True) for c in (old, new))
    runtime.kernel.configure(name, new.settings.plugins.get(name, {}))
    if is_now is False:
        await runtime.kernel.disable(name)
    elif was is False:
        await runtime.kernel.enable(name)
    else:
        await runtime.kernel.restart(name)
