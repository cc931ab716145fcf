"""Validates the tables under `plugins:` without starting plugins; collects all configuration
errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from aitorrentd.config.load import Config, WrongSettings, located
from aitorrentd.config.validate import unsaid
from aitorrentd.errors import AitorrentError, ConfigError
from aitorrentd.validation import Problem, nearest_plugin, problems

if TYPE_CHECKING:
    from aitorrentd.api.plugin import PluginInfo
    from aitorrentd.kernel.found import PluginSource

_IMPORT_TIMEOUT_S: Final = 30.0


async def all_problems(
    config: Config | ConfigError, sources: Sequence[PluginSource] | None = None
) -> list[str]:
    """Every problem of a configuration, loaded or not: the core's settings, and each plugin's as
    far as its table can be read. One line each."""
    said: Sequence[Problem] = ()
    tables: Mapping[str, Mapping[str, Any]]
    if isinstance(config, WrongSettings):
        said, tables = config.found, config.tables
    elif isinstance(config, ConfigError):
        return list(config.problems)
    else:
        tables = config.settings.plugins
    found = await plugin_problems(tables, sources)
    return [*located(said, config.merged), *located(unsaid(found, said), config.merged)]


async def plugin_problems(
    plugins: Mapping[str, Mapping[str, Any]], sources: Sequence[PluginSource] | None = None
) -> list[Problem]:
    """Problems in these tables; `sources` None = the installed plugins.

    A plugin that cannot be imported has its own state for that, and is not a problem here.
    """
    # Imported here: entry points are read only when needed.
    from aitorrentd.api.plugin import PluginInfo
    from aitorrentd.kernel.found import load, ranked

    by_name = {source.name: source for source in ranked(sources).sources}
    wrong: list[Problem] = []
    for name, table in plugins.items():
        source = by_name.get(name)
        if source is None:
            near = nearest_plugin(name, by_name)
            installed = f"installed plugins: {', '.join(sorted(by_name))}"
            hint = f"did you mean {near}?" if near else installed
            text = f"no such plugin is installed; {hint}"
            wrong.append(Problem(("plugins", name), text))
            continue
        if table.get("enabled") is False:
            continue
        try:
            made: Any = await load(source, timeout_s=_IMPORT_TIMEOUT_S)
            info = made().aitorrent_info()
        except (Exception, SystemExit):  # the plugin fence: the kernel reports what is broken
            continue
        if isinstance(info, PluginInfo):
            wrong += _table_problems(name, info, table)
    return wrong


def _table_problems(name: str, info: PluginInfo, table: Mapping[str, Any]) -> tuple[Problem, ...]:
    path = ("plugins", name)
    try:
        info.config.model_validate(table)
    except ValidationError as e:
        return problems(path, e, info.config)
    except AitorrentError as e:
        return (Problem(path, e.message),)
    return ()
