"""Whether the tables under `plugins:` fit their plugins' models, without starting any plugin, and
all that is wrong with a configuration, told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from aitorrentd.config.load import Config, WrongSettings, located, unsaid
from aitorrentd.errors import AitorrentError, ConfigError
from aitorrentd.validation import nearest_plugin, validated

if TYPE_CHECKING:
    from aitorrentd.kernel.found import PluginSource

_IMPORT_TIMEOUT_S: Final = 30.0


async def all_problems(
    config: Config | ConfigError, sources: Sequence[PluginSource] | None = None
) -> list[str]:
    """What is wrong with a configuration, or with that which could not be loaded: the core's
    settings, and every plugin's as far as its table can be read. One line each.
    """
    if isinstance(config, WrongSettings):
        said, tables = config.problems, config.tables
    elif isinstance(config, ConfigError):
        return list(config.problems)
    else:
        said, tables = (), config.settings.plugins
    found = await plugin_problems(tables, sources)
    return [*said, *located(unsaid(found, said), config.origins)]


async def plugin_problems(
    plugins: Mapping[str, Mapping[str, Any]], sources: Sequence[PluginSource] | None = None
) -> list[str]:
    """What is wrong with these tables, one line each; `sources` None = the installed plugins.

    A plugin that cannot be imported has its own state for that, and is no problem here.
    """
    # Imported here: entry points are looked at only when somebody asks.
    from aitorrentd.api.plugin import PluginInfo
    from aitorrentd.kernel.found import load, ranked

    by_name = {source.name: source for source in ranked(sources).sources}
    wrong: list[str] = []
    for name, table in plugins.items():
        source = by_name.get(name)
        if source is None:
            near = nearest_plugin(name, by_name)
            hint = f"did you mean {near}?" if near else f"there are: {', '.join(sorted(by_name))}"
            wrong.append(f"plugins.{name}: no plugin of that name is installed; {hint}")
            continue
        if table.get("enabled") is False:
            continue
        try:
            made: Any = await load(source, timeout_s=_IMPORT_TIMEOUT_S)
            info = made().aitorrent_info()
        except (Exception, SystemExit):  # the plugin fence: the kernel says what is broken
            continue
        if isinstance(info, PluginInfo):
            wrong += _table_problems(name, info, table)
    return wrong


def _table_problems(name: str, info: Any, table: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        validated(f"plugins.{name}", info.config, table)
    except ConfigError as e:
        return e.problems
    except AitorrentError as e:
        return (f"plugins.{name}: {e.message}",)
    return ()
