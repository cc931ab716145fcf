"""Step 1, read: all sources of a configuration as layers; the last one wins.

The file, its drop-ins, the environment, the command line. Or one mapping from code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aitorrentd.config.document import parse, position
from aitorrentd.config.drop_ins import (
    UnreadableConfig,
    drop_ins,
    link_problem,
    mistaken_name,
    unreadable,
)
from aitorrentd.errors import ConfigError
from aitorrentd.setting_path import SettingPath
from aitorrentd.system.files import read_regular
from aitorrentd.system.paths import absolute, stray_characters
from aitorrentd.validation import Problem, kind_text

MAX_FILE_BYTES: Final = 256 * 1024
_PATHS: Final = (
    ("node", "state_dir"),
    ("node", "cache_dir"),
    ("node", "runtime_dir"),
    ("node", "identity"),
    ("control", "socket"),
)


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """Where a configuration comes from, so that it can be read again."""

    path: Path | None
    "None for a configuration from code, which is all in `overrides`."
    environ: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    "Command-line settings; they override everything."
    must_exist: bool = True
    "This exact file was requested; the default one may be missing."
    is_outside: bool = False
    "Read from outside the service: what its manager gives only to the service is missing here."


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: a file, the environment, the command line."""

    origin: str
    tree: Mapping[str, Any]
    lines: Mapping[SettingPath, int] = field(default_factory=dict)
    "In the file, from 1."
    variables: Mapping[SettingPath, str] = field(default_factory=dict)
    "The environment variables that the settings come from."
    file: Path | None = None
    problems: tuple[Problem, ...] = ()
    "Text that can be read but is invalid."

    def place(self, path: SettingPath) -> str:
        """Where the setting `path`, or the innermost table around it, is written."""
        for end in range(len(path), 0, -1):
            if variable := self.variables.get(path[:end]):
                return f"environment variable {variable}"
            if line := self.lines.get(path[:end]):
                return f"{self.origin}:{line}"
        return self.origin


def read(source: Source, replaced: Mapping[Path, str] | None = None) -> list[Layer]:
    """The layers of `source`; `replaced` is the text of files that are about to be written.

    Raises:
        ConfigError: some files cannot be read; the message names each. UnreadableConfig: the same,
        and no file's contents are to blame.
    """
    if source.path is None:
        return [Layer("code", _absolute(source.overrides))]
    wrong: list[ConfigError] = []
    files = list(_files(source.path, source.must_exist, replaced or {}, wrong))
    if wrong:
        raise _all_of(wrong)
    command_line = Layer("command line", _absolute(source.overrides))
    return [*files, _environment(source.environ), command_line]


def read_tree(path: Path) -> dict[str, Any]:
    """The settings in one file.

    Raises:
        FileNotFoundError: the file does not exist. ConfigError: any other problem.
    """
    return dict(_parsed(_text(path), path).tree)


def _files(
    path: Path, must_exist: bool, replaced: Mapping[Path, str], wrong: list[ConfigError]
) -> Iterator[Layer]:
    found, ignored = drop_ins(path)
    wrong += ignored
    if not must_exist and (mistaken := mistaken_name(path)):
        wrong.append(mistaken)
    for file in [path, *sorted({*found, *replaced}, key=lambda drop_in: drop_in.name)]:
        try:
            text = replaced.get(file)
            yield _parsed(_text(file) if text is None else text, file)
        except ConfigError as e:
            wrong.append(e)
        except FileNotFoundError:
            if file is path and must_exist:
                text = f"there is no configuration file {path}; create it, or leave out --config"
                wrong.append(ConfigError(f"{text} and $AITORRENT_CONFIG to run with the defaults"))


def _text(path: Path) -> str:
    try:
        # A link to /dev/null masks a drop-in, as in systemd.unit(5).
        is_masked = path.exists() and path.samefile(os.devnull)
        raw = b"" if is_masked else read_regular(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError(link_problem(path)) from None
        raise
    except OSError as e:
        raise unreadable(e, path) from None
    if len(raw) > MAX_FILE_BYTES:
        text = f"{path} is longer than {MAX_FILE_BYTES} bytes"
        raise ConfigError(f"{text}; split it into drop-ins in {path.name}.d")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        where = position(raw[: e.start].decode(), e.start)
        raise ConfigError(f"{path}{where}: not UTF-8 text; save the file as UTF-8") from None


def _parsed(text: str, path: Path) -> Layer:
    document = parse(text, str(path))
    tree = {} if document.tree is None else document.tree
    if not isinstance(tree, dict):
        kind = kind_text(tree)
        raise ConfigError(f"{path}: must contain lines such as `key: value`, not {kind}")
    return Layer(str(path), tree, document.lines, file=path)


def _environment(environ: Mapping[str, str]) -> Layer:
    """Settings from the environment, under the names that the first ai-torrent used."""
    transport: dict[str, Any] = {}
    variables: dict[SettingPath, str] = {}
    wrong: tuple[Problem, ...] = ()
    if port := environ.get("PORT", "").strip():
        where = ("plugins", "transport", "port")
        transport["port"] = port
        variables[where] = "PORT"
        if port.isascii() and port.isdecimal() and int(port) <= 65535:
            transport["port"] = int(port)
        else:
            wrong = (Problem(where, f"{port!r} is not a port (0 to 65535); correct or unset it"),)
    for key, variable in (("announce", "AI_TORRENT_ADDR"), ("bootstrap", "BOOTSTRAP_ADDR")):
        texts = (part.strip() for part in environ.get(variable, "").split(","))
        if addresses := [text for text in texts if text]:
            transport[key] = addresses
            variables["plugins", "transport", key] = variable
    tree: dict[str, Any] = {"plugins": {"transport": transport}} if transport else {}
    if state_dir := environ.get("AITORRENT_STATE_DIR", ""):
        tree["node"] = {"state_dir": state_dir}
        variables["node", "state_dir"] = "AITORRENT_STATE_DIR"
    return Layer("environment", _absolute(tree), variables=variables, problems=wrong)


def _absolute(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """`tree` with relative paths from other sources than files resolved against the current
    directory."""
    changed = dict(tree)
    for table, key in _PATHS:
        value = (tree.get(table) or {}).get(key) if isinstance(tree.get(table), Mapping) else None
        if not isinstance(value, str | Path) or not str(value).strip():
            continue
        text = str(value)
        if stray_characters(text):
            continue  # the validation reports it, as it was written
        if not text.startswith(("/", "~")) and (table, text) != ("control", "auto"):
            changed[table] = {**changed[table], key: os.path.normpath(absolute(Path(text)))}
    return changed


def _all_of(wrong: list[ConfigError]) -> ConfigError:
    if len(wrong) == 1:
        return wrong[0]
    lines = tuple(line for error in wrong for line in error.problems)
    unread = [error for error in wrong if isinstance(error, UnreadableConfig)]
    if len(unread) < len(wrong):
        return ConfigError("; ".join(lines), problems=lines)
    denied = all(error.is_denied for error in unread)
    both = UnreadableConfig("; ".join(lines), is_denied=denied)
    both.problems = lines
    return both
