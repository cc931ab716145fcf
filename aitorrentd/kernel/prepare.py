"""Prepares a found plugin for its start: load, read the manifest, configure.

Each step ends in a state and a sentence; nothing that a plugin does here affects any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aitorrentd.api.plugin import PluginConfig, SkipPlugin
from aitorrentd.errors import AitorrentError, ConfigError
from aitorrentd.kernel.found import load, missing_extra
from aitorrentd.kernel.hooks import Hooks, contained
from aitorrentd.kernel.reasons import reason
from aitorrentd.kernel.states import Plugin, PluginState
from aitorrentd.validation import nearest_plugin, validated

Step = tuple[PluginState, str]
"The state that a step leads to, and the reason."

_BLANK: Final[Mapping[str, Any]] = {}


def is_switched_off(table: object) -> bool:
    """Whether a raw settings table says `enabled: false`; such a plugin is not even imported."""
    return isinstance(table, Mapping) and table.get("enabled") is False


async def load_plugin(plugin: Plugin, hooks: Hooks, *, timeout_s: float) -> Step:
    """Import the plugin's class, create its only instance and read its manifest."""
    source = plugin.source
    try:
        made = await load(source, timeout_s=timeout_s)
    except ModuleNotFoundError as e:
        if remedy := missing_extra(source, e):
            return PluginState.SKIPPED, remedy
        return PluginState.BROKEN, f"cannot be imported: {reason(e)}"
    except SkipPlugin as e:
        return PluginState.SKIPPED, str(e)
    except AitorrentError as e:
        return PluginState.BROKEN, e.message
    except (Exception, SystemExit, KeyboardInterrupt) as e:
        return PluginState.BROKEN, f"cannot be imported: {reason(e)}"
    if not callable(made):
        return PluginState.BROKEN, f"its entry point is {type(made).__name__}, not a class"
    try:
        instance = contained(made, "its class")
        hooks.register(plugin.name, instance)
        plugin.info = hooks.info(plugin.name)
    except SkipPlugin as e:
        hooks.forget(plugin.name)
        return PluginState.SKIPPED, str(e)
    except Exception as e:
        hooks.forget(plugin.name)
        return PluginState.BROKEN, reason(e)
    plugin.instance = instance
    return PluginState.LOADED, ""


def configure(plugin: Plugin, table: object) -> Step:
    """Check the plugin's settings table against its model."""
    model = plugin.info.config if plugin.info else PluginConfig
    try:
        plugin.config = contained(
            lambda: validated(("plugins", plugin.name), model, _BLANK if table is None else table),
            "its settings model",
        )
    except ConfigError as e:
        return PluginState.INVALID, "; ".join(e.problems)
    except Exception as e:
        # a plugin's own validator may raise anything
        return PluginState.INVALID, f"its settings model failed: {reason(e)}"
    if not plugin.config.enabled:
        return PluginState.DISABLED, ""
    return PluginState.CONFIGURED, ""


def unknown_tables(tables: Mapping[str, Any], names: list[str]) -> tuple[tuple[str, str], ...]:
    """(name, sentence) for each settings table that belongs to no installed plugin."""
    wrong = []
    for name in tables:
        if name not in names:
            near = nearest_plugin(str(name), names)
            hint = f"; did you mean {near}?" if near else ""
            wrong.append((str(name), f"plugins.{name}: no plugin of this name is installed{hint}"))
    return tuple(wrong)
