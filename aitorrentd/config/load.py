"""Loads one configuration, from its files to a frozen Config, step by step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aitorrentd.config.drop_ins import SET_FILE, drop_in_dir
from aitorrentd.config.merge import Merged, merge
from aitorrentd.config.model import Settings
from aitorrentd.config.read import Source, read
from aitorrentd.config.secrets import conceal, resolve
from aitorrentd.config.validate import placed, unsaid, validate
from aitorrentd.errors import ConfigError
from aitorrentd.setting_path import SettingPath, looked_up, parse_key
from aitorrentd.system.paths import IDENTITY_NAME, SOCKET_NAME, Directories, config_file, expanded
from aitorrentd.validation import Problem


def load(source: Source, replaced: Mapping[Path, str] | None = None) -> Config:
    """The configuration in `source`; `replaced` is the text of files about to be written.

    Raises:
        ConfigError: a file cannot be read. WrongSettings: all are readable, but their settings are
        invalid.
    """
    layers = read(source, replaced)
    merged = merge(layers)
    resolved = resolve(merged.tree, source.environ, is_outside=source.is_outside)
    settings, wrong = validate(resolved.tree)
    said = [*(problem for layer in layers for problem in layer.problems), *resolved.problems]
    if settings is None or said:
        found = [*said, *unsaid(wrong, said)]
        raise WrongSettings(found, merged, resolved.tree, unread=resolved.unread)
    directories, wrong = placed(settings, source.environ)
    if wrong:
        raise WrongSettings(wrong, merged, resolved.tree)
    return Config(settings, directories, merged, resolved.secrets, source)


@dataclass(frozen=True, slots=True, repr=False)
class Config:
    """A configuration that was read, merged, resolved and validated."""

    settings: Settings
    "With secrets in place; never display it, use `shown`."
    directories: Directories
    merged: Merged
    secrets: frozenset[str]
    source: Source

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        overrides: Mapping[str, Any] | None = None,
        outside: bool = False,
    ) -> Config:
        """The configuration in `path`, else in $AITORRENT_CONFIG, else in the default location.

        Only a default file may be missing; then the defaults apply. `outside` is for inspecting the
        configuration of a service from another process: secrets that the service manager gives only
        to the service are omitted.

        Raises:
            ConfigError: the configuration is invalid; the message says where and how to fix it.
        """
        named = path or environ.get("AITORRENT_CONFIG", "")
        return load(
            Source(
                path=expanded(Path(named)) if named else config_file(environ),
                environ=environ,
                overrides=overrides or {},
                must_exist=bool(named),
                is_outside=outside,
            )
        )

    @classmethod
    def of(cls, tree: Mapping[str, Any], *, environ: Mapping[str, str] = os.environ) -> Config:
        """A configuration from code; no file and no environment variable changes it.

        Raises:
            ConfigError: as in `load`.
        """
        return load(Source(path=None, environ=environ, overrides=tree))

    def reloaded(self, replaced: Mapping[Path, str] | None = None) -> Config:
        """Read the same sources again; `replaced` is the text of files about to be written.

        Raises:
            ConfigError: as in `load`, or the configuration came from code.
        """
        if self.source.path is None:
            raise ConfigError("this node was configured in code; there is no file to reload")
        return load(self.source, replaced)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that were read."""
        return self.merged.files

    @property
    def set_file(self) -> Path | None:
        """The drop-in that `config set` writes; None for a configuration from code."""
        return None if self.source.path is None else drop_in_dir(self.source.path) / SET_FILE

    @property
    def socket(self) -> Path | None:
        """The path of the control socket; None = none."""
        chosen = self.settings.control.socket
        return self.directories.runtime / SOCKET_NAME if chosen == Path("auto") else chosen

    @property
    def identity_file(self) -> Path:
        """The file with the node's key."""
        return self.settings.node.identity or self.directories.state / IDENTITY_NAME

    def shown(self) -> dict[str, Any]:
        """The effective settings, with defaults, secrets concealed; plugin tables as given."""
        tree: dict[str, Any] = self.settings.model_dump(mode="json", exclude={"plugins"})
        tree["plugins"] = conceal(dict(self.merged.tree.get("plugins") or {}), ("plugins",))
        return tree

    def get(self, key: str) -> tuple[Any, str]:
        """The displayed value of a key, and its origin (none for a table).

        Raises:
            NotFound: no such key is set. ConfigError: not a key.
        """
        value = looked_up(self.shown(), key)
        return value, "" if isinstance(value, dict) else self.merged.origin(parse_key(key))

    def __repr__(self) -> str:
        return f"Config(files={[str(f) for f in self.files]})"


class WrongSettings(ConfigError):
    """The files are readable, but their settings are invalid.

    `tables` are the plugins' tables, with secrets in place and not yet validated. `is_denied` is
    None if some setting is wrong; otherwise all problems are secrets that cannot be read now, and
    it tells whether permission was denied to all of them.
    """

    def __init__(
        self,
        found: Iterable[Problem],
        merged: Merged,
        resolved: Mapping[str, Any],
        *,
        unread: Mapping[SettingPath, bool] | None = None,
    ) -> None:
        self.found = tuple(found)
        unread = unread or {}
        is_unread = all(problem.path in unread for problem in self.found)
        self.is_denied = all(unread.values()) if is_unread and unread else None
        self.merged = merged
        self.files = merged.files
        self.tables = _plugin_tables(resolved)
        told = located(self.found, merged)
        super().__init__("; ".join(told), problems=told)


def located(found: Iterable[Problem], merged: Merged) -> tuple[str, ...]:
    """One line per problem, with the place where its setting is written."""
    return tuple(_with_place(problem, merged.place(problem.path)) for problem in found)


def _with_place(problem: Problem, place: str) -> str:
    return f"{problem} (in {place})" if place and place != "code" else str(problem)


def _plugin_tables(tree: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    plugins = tree.get("plugins")
    if not isinstance(plugins, Mapping):
        return {}
    # An empty `transport:` is an empty table; anything else that is not a table was already
    # reported.
    return {n: table or {} for n, table in plugins.items() if isinstance(table, Mapping | None)}
