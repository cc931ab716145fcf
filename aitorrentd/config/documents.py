"""YAML documents as plain trees, with errors that say where and what to do.

A tree is a map with text keys whose leaves are text, numbers, booleans and null: what the control
API can carry. Dates stay text, a key that is given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.nodes import MappingNode

from aitorrentd.errors import ConfigError

MAX_FILE_BYTES: Final = 256 * 1024
_MAX_DEPTH: Final = 32
_MAX_VALUES: Final = 100_000
_INT_RANGE: Final = range(-(2**63), 2**64)  # what msgpack can carry
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.CSafeLoader):
    """Safe YAML without dates and without silent duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the shape that PyYAML reads
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A map, once no key of it was written twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            text = str(key.value)
            if text in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {text!r} is given twice", key.start_mark
                )
            seen.add(text)
        return super().construct_mapping(node, deep=deep)


def parse(text: str, source: str) -> Any:
    """The YAML value of `text`; `source` is how errors name it.

    Raises:
        ConfigError: not YAML, or a value that configuration cannot hold; with line and column.
    """
    try:
        _check_depth(text, source)
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where}: {_plain(e, text)}") from None
    except yaml.reader.ReaderError as e:
        line, column = _position(text, e.position)
        shown = f"U+{e.character:04X}" if isinstance(e.character, int) else repr(e.character)
        raise ConfigError(
            f"{source}:{line}:{column}: the character {shown} is not allowed in YAML"
        ) from None
    except ValueError as e:
        # PyYAML passes on what int() says about values such as `0b`.
        raise ConfigError(f"{source}: not YAML: {e}") from None
    _check(value, source)
    return value


def read(path: Path) -> dict[str, Any]:
    """The map in a YAML file; an empty file is an empty map.

    Raises:
        FileNotFoundError: there is no such file. ConfigError: anything else that is wrong.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise ConfigError(f"{path} is a directory, not a configuration file") from None
    except PermissionError:
        raise ConfigError(
            f"{path}: permission denied; the user that runs the daemon must be able to read it"
        ) from None
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is longer than {MAX_FILE_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line, column = _position(raw[: e.start].decode(errors="replace"), len(raw))
        raise ConfigError(
            f"{path}:{line}:{column}: not UTF-8 text; save the file as UTF-8"
        ) from None
    value = parse(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines, not a {_kind(value)}")
    return value


def dump(tree: dict[str, Any]) -> str:
    """The tree as YAML in the order of its keys."""
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return text


def _check_depth(text: str, source: str) -> None:
    # libyaml composes by recursion in C: thousands of brackets would end the process.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            where = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
            raise ConfigError(f"{where}: nested deeper than {_MAX_DEPTH}")


def _plain(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = error.problem or error.context or "no value"
    if problem.startswith("the key"):
        return problem
    mark = error.problem_mark
    line = text.split("\n")[mark.line] if mark and mark.line <= text.count("\n") else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab is used for indentation; YAML takes only spaces there"
    context = f" {error.context}" if error.context else ""
    return f"not YAML: {problem}{context}"


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _kind(value: object) -> str:
    return {list: "list", str: "text", bool: "boolean", int: "number", float: "number"}.get(
        type(value), type(value).__name__
    )


def _check(root: Any, source: str) -> None:
    """Refuse what a tree cannot hold; bounded even for aliases that point at themselves."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), root)]
    for _ in range(_MAX_VALUES):
        if not pending:
            return
        path, value = pending.pop()
        if len(path) > _MAX_DEPTH:
            raise ConfigError(f"{source}: {key_text(path[:3])}…: nested deeper than {_MAX_DEPTH}")
        if isinstance(value, dict):
            for key, child in value.items():
                if not isinstance(key, str):
                    where = f"in {key_text(path)}" if path else "at the top"
                    raise ConfigError(
                        f"{source}: the key {key!r} {where} is not text; write it in quotes"
                    )
                pending.append(((*path, key), child))
        elif isinstance(value, list):
            pending.extend(((*path, str(i)), child) for i, child in enumerate(value))
        elif isinstance(value, int) and value not in _INT_RANGE:
            raise ConfigError(f"{source}: {key_text(path)}: the number has more than 64 bits")
        elif not isinstance(value, str | int | float | None):
            raise ConfigError(f"{source}: {key_text(path)}: a {_kind(value)} is not allowed here")
    raise ConfigError(f"{source}: more than {_MAX_VALUES} values")


_BARE = re.compile(r"[^.\"\s]+")


def key_text(path: tuple[str, ...]) -> str:
    """A path as people write it: `plugins.transport.port`; parts with dots are in quotes."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)


def parse_key(text: str) -> tuple[str, ...]:
    """The path that `text` names, see `key_text`.

    Raises:
        ConfigError: empty parts or an open quote.
    """
    if not re.fullmatch(r'(?:[^.\"\s]+|"[^"]+")(?:\.(?:[^.\"\s]+|"[^"]+"))*', text):
        raise ConfigError(f"{text!r} is not a key such as plugins.transport.port")
    return tuple(p.strip('"') for p in re.findall(r'"[^"]+"|[^.\"\s]+', text))
