"""Config: one validated configuration, with its files, the origin of each value, its secrets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from aitorrentd.config.documents import key_text, parse_key
from aitorrentd.config.layers import (
    SET_FILE,
    KeyPath,
    Layer,
    drop_in_dir,
    environment_layer,
    file_layers,
    merge,
)
from aitorrentd.config.model import Settings
from aitorrentd.config.secrets import conceal, resolve, without_handed
from aitorrentd.errors import ConfigError, NotFound
from aitorrentd.system.paths import (
    IDENTITY_NAME,
    MAX_SOCKET_BYTES,
    SOCKET_NAME,
    Directories,
    config_file,
    directories,
    expanded,
)
from aitorrentd.validation import problems

_DEFAULT: Final = "default"
_MAX_SHOWN: Final = 20


class WrongSettings(ConfigError):
    """The files can be read, and what they say is wrong.

    `tables` are those of the plugins, of which nothing was checked yet; `files` and `origins` as of
    a `Config`.
    """

    def __init__(
        self,
        problems: Iterable[str],
        *,
        tables: Mapping[str, Mapping[str, Any]],
        files: tuple[Path, ...],
        origins: Mapping[KeyPath, str],
    ) -> None:
        told = located(problems, origins)
        super().__init__("; ".join(told), problems=told)
        self.tables = tables
        self.files = files
        self.origins = origins


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """Where a configuration is read from, so that it can be read again."""

    path: Path
    named: bool
    "Somebody asked for exactly this file, so it must exist."
    environ: Mapping[str, str]
    overrides: Mapping[str, Any]
    "What the command line says; wins over everything."

    def layers(self, replaced: Mapping[Path, Mapping[str, Any]]) -> list[Layer]:
        """All layers, the last wins."""
        return [
            *file_layers(self.path, required=self.named, replaced=replaced),
            environment_layer(self.environ),
            Layer("command line", self.overrides),
        ]


@dataclass(frozen=True, slots=True, repr=False)
class Config:
    """A configuration that was read, merged, resolved and validated."""

    settings: Settings
    "With secrets in place; never show it, use `shown`."
    directories: Directories
    tree: Mapping[str, Any]
    "As merged, with references in the place of secrets."
    origins: Mapping[KeyPath, str]
    files: tuple[Path, ...]
    secrets: frozenset[str]
    source: Source | None
    "None for a configuration made in code."

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        overrides: Mapping[str, Any] | None = None,
        outside: bool = False,
    ) -> Config:
        """The configuration in `path`, else in $AITORRENT_CONFIG, else in the default place.

        Only a default file may be missing; then the defaults hold. `outside` is for looking at the
        configuration of a service that is not this process: secrets that its manager hands to it
        alone are left out.

        Raises:
            ConfigError: something is wrong; the message says where and what to do.
        """
        named = path or environ.get("AITORRENT_CONFIG", "")
        file = expanded(Path(named)) if named else config_file(environ)
        return _read(Source(file, bool(named), environ, overrides or {}), {}, outside)

    @classmethod
    def of(cls, tree: Mapping[str, Any], *, environ: Mapping[str, str] = os.environ) -> Config:
        """A configuration made in code; no file and no environment variable changes it.

        Raises:
            ConfigError: as `load`.
        """
        return _build([Layer("code", tree)], environ, (), None)

    def reloaded(self, replaced: Mapping[Path, Mapping[str, Any]] | None = None) -> Config:
        """The same sources read again; `replaced` stands in for files about to be written.

        Raises:
            ConfigError: as `load`, or made in code.
        """
        if self.source is None:
            raise ConfigError("this node was configured in code: it has no file to read again")
        return _read(self.source, replaced or {})

    @property
    def set_file(self) -> Path | None:
        """The drop-in that `config set` writes; None for a configuration made in code."""
        return None if self.source is None else drop_in_dir(self.source.path) / SET_FILE

    @property
    def socket(self) -> Path | None:
        """Where the control socket is; None = none."""
        chosen = self.settings.control.socket
        if chosen == Path("auto"):
            return self.directories.runtime / SOCKET_NAME
        return None if chosen is None else expanded(chosen)

    @property
    def identity_file(self) -> Path:
        """The file with the node's key."""
        chosen = self.settings.node.identity
        return expanded(chosen or self.directories.state / IDENTITY_NAME)

    def shown(self) -> dict[str, Any]:
        """What holds now, defaults included and secrets concealed; plugin tables as given."""
        tree: dict[str, Any] = self.settings.model_dump(mode="json", exclude={"plugins"})
        tree["plugins"] = conceal(dict(self.tree.get("plugins") or {}), ("plugins",))
        return tree

    def shown_origins(self) -> dict[str, str]:
        """Where each value of `shown` is from, by its key."""
        return {
            key_text(path): self.origins.get(path, _DEFAULT) for path in _leaves(self.shown(), ())
        }

    def get(self, key: str) -> tuple[Any, str]:
        """The shown value of a key and its origin.

        Raises:
            NotFound: no such key is set. ConfigError: not a key.
        """
        value = looked_up(self.shown(), key)
        origin = _DEFAULT if not isinstance(value, dict) else ""
        return value, self.origins.get(parse_key(key), origin)

    def __repr__(self) -> str:
        return f"Config(files={[str(f) for f in self.files]})"


def looked_up(tree: Any, key: str) -> Any:
    """The value of `key` in `tree`.

    Raises:
        NotFound: there is none. ConfigError: not a key.
    """
    path = parse_key(key)
    for i, part in enumerate(path):
        if not isinstance(tree, dict) or part not in tree:
            known = sorted(tree) if isinstance(tree, dict) else []
            inside = key_text(path[:i]) or "the configuration"
            has = f"; it has: {', '.join(known[:_MAX_SHOWN])}" if known else ""
            raise NotFound(f"{key} is not set in {inside}{has}")
        tree = tree[part]
    return tree


def _leaves(tree: Any, path: KeyPath) -> list[KeyPath]:
    if isinstance(tree, dict) and tree:
        return [leaf for k, v in tree.items() for leaf in _leaves(v, (*path, k))]
    return [path]


def _read(
    source: Source, replaced: Mapping[Path, Mapping[str, Any]], outside: bool = False
) -> Config:
    layers = source.layers(replaced)
    files = tuple(Path(layer.origin) for layer in layers[:-2])
    return _build(layers, source.environ, files, source, outside)


def _build(
    layers: list[Layer],
    environ: Mapping[str, str],
    files: tuple[Path, ...],
    source: Source | None,
    outside: bool = False,
) -> Config:
    tree, origins = merge(layers)
    secrets: set[str] = set()
    wrong = [problem for layer in layers for problem in layer.problems]
    handed = without_handed(tree, environ) if outside else tree
    resolved = resolve(handed, environ, secrets, wrong)
    plugins = resolved.get("plugins")
    refusal = partial(
        WrongSettings,
        tables={} if not isinstance(plugins, dict) else _tables(plugins),
        files=files,
        origins=origins,
    )
    try:
        settings = Settings.model_validate(resolved)
    except ValidationError as e:
        found = map(_with_place, problems("", e, Settings))
        raise refusal([*wrong, *unsaid(found, wrong)]) from None
    if wrong:
        raise refusal(wrong)
    node = settings.node
    try:
        config = Config(
            settings=settings,
            directories=directories(
                environ, state=node.state_dir, cache=node.cache_dir, runtime=node.runtime_dir
            ),
            tree=tree,
            origins=origins,
            files=files,
            secrets=frozenset(secrets),
            source=source,
        )
        socket, _ = config.socket, config.identity_file
    except ConfigError as e:
        raise refusal(e.problems) from None
    if socket is not None and len(os.fsencode(socket)) > MAX_SOCKET_BYTES:
        raise refusal(
            [
                f"the path of the control socket, {socket}, is longer than {MAX_SOCKET_BYTES} "
                "bytes; set control.socket or node.runtime_dir to a shorter one"
            ]
        )
    return config


def _with_place(problem: str) -> str:
    """`transport: unknown key; did you mean plugins.transport?`"""
    key, _, text = problem.partition(": ")
    if text != "unknown key":
        return problem
    # Imported here: entry points are looked at only when something is wrong.
    from aitorrentd.kernel.found import ranked

    is_plugin = any(source.name == key for source in ranked(None).sources)
    return f"{problem}; did you mean plugins.{key}?" if is_plugin else problem


def _tables(plugins: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    # `transport:` with nothing below it is an empty table; what is no table is told already.
    return {n: table or {} for n, table in plugins.items() if isinstance(table, dict | None)}


def unsaid(found: Iterable[str], said: Iterable[str]) -> tuple[str, ...]:
    """Those of `found` whose setting none of `said` is about."""
    known = {_setting(problem) for problem in said}
    return tuple(problem for problem in found if _setting(problem) not in known)


def _setting(problem: str) -> str:
    return problem.partition(":")[0].replace("[", ".").replace("]", "")


def located(found: Iterable[str], origins: Mapping[KeyPath, str]) -> tuple[str, ...]:
    """Problems with the origin of the setting that each begins with, where that is known."""
    return tuple(_with_origin(problem, origins) for problem in found)


def _with_origin(problem: str, origins: Mapping[KeyPath, str]) -> str:
    key = problem.partition(":")[0].partition("[")[0]
    inside = [o for path, o in origins.items() if f"{key_text(path)}.".startswith(f"{key}.")]
    parent = [o for path, o in origins.items() if f"{key}.".startswith(f"{key_text(path)}.")]
    origin = next(iter([*inside, *parent]), "")
    return f"{problem} (in {origin})" if origin and origin != "code" else problem
