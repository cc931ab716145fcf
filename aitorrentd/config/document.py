"""Parses YAML text into a tree of settings, with line numbers; errors give the place and the fix.

A tree is a table with text keys whose leaves are text, numbers, true, false and null: what the
control API can carry. Scalars follow YAML 1.2 (core schema, section 10.3.2), where 1.1 would guess:
`no`, `1:30`, `08468`, `0660` and `2026-01-01` are text, which the setting's own type then parses as
intended. Duplicate keys are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from aitorrentd.errors import ConfigError
from aitorrentd.setting_path import SettingPath, key_text

_MAX_DEPTH: Final = 32
_MAX_VALUES: Final = 100_000
_INT_RANGE: Final = range(-(2**63), 2**64)  # what msgpack can carry

_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = _TAG + "merge"
_RESOLVERS: Final = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("merge", r"<<", "<"),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The table above in PyYAML's form: by first character."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, firsts in _RESOLVERS:
        for first in firsts:
            table.setdefault(first, []).append((_TAG + name, re.compile(rf"(?:{pattern})\Z")))
    return table


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another type."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the shape that PyYAML reads
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _resolvers().get(first, [])
        for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_resolvers()}
    }

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> ScalarNode:
        """Characters that YAML treats as line breaks, or drops, are written as escapes."""
        style = '"' if re.search("[\r\x85\u2028\u2029\ufeff]", data) else None
        return self.represent_scalar(_TAG + "str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


@dataclass(frozen=True, slots=True)
class Document:
    """The contents of a YAML text, and the line (from 1) of each of its settings."""

    tree: Any
    lines: Mapping[SettingPath, int]


def parse(text: str, source: str) -> Document:
    """Parse the YAML document `text`; errors call it `source`.

    Raises:
        ConfigError: not YAML, or a value that configuration cannot hold; with line and column.
    """
    try:
        _check_depth(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where}: {_plain(e, text)}") from None
    except yaml.reader.ReaderError as e:
        shown = f"U+{e.character:04X}" if isinstance(e.character, int) else repr(e.character)
        raise ConfigError(
            f"{source}{position(text, e.position)}: the character {shown} is not allowed in YAML; "
            "remove it"
        ) from None
    except UnicodeEncodeError as e:
        # a lone surrogate, from an argument that was not UTF-8
        raise ConfigError(f"{source}{position(text, e.start)}: not valid Unicode text") from None
    if node is None:
        return Document(None, {})
    builder = _Builder(source)
    return Document(builder.build(node, ()), builder.lines)


def dump(tree: Mapping[str, Any]) -> str:
    """The tree as YAML in the order of its keys; `parse` returns the same tree from it."""
    text: str = yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=False,
    )
    return text


def position(text: str, offset: int) -> str:
    """`:LINE:COLUMN` of a character of `text`, from 1."""
    before = text[:offset]
    return f":{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


class _Builder:
    """Builds a tree from composed nodes; bounded, however much aliases and merge keys multiply."""

    def __init__(self, source: str) -> None:
        self.lines: dict[SettingPath, int] = {}
        self._source = source
        self._values = 0

    def build(self, node: Node, path: SettingPath) -> Any:
        self._count(node, path)
        if path not in self.lines:
            self.lines[path] = node.start_mark.line + 1
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            raise self._error(node, path, _tag_problem(node.tag))
        if not isinstance(node, MappingNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        tree = {}
        for key, (key_node, value_node) in self._pairs(node, path, 0).items():
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            tree[key] = self.build(value_node, (*path, key))
        return tree

    def _pairs(self, node: MappingNode, path: SettingPath, merges: int) -> dict[str, Any]:
        """(key node, value node) by key; own keys override merged ones, earlier merges later
        ones."""
        own: dict[str, tuple[Node, Node]] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        has_merge = False
        for key_node, value_node in node.value:
            self._count(key_node, path, merges)
            if key_node.tag == _MERGE:
                if has_merge:
                    text = "duplicate `<<`; merge several tables with `<<: [*a, *b]`"
                    raise self._error(key_node, path, text)
                has_merge = True
                for table in _merged_tables(value_node):
                    if not isinstance(table, MappingNode):
                        raise self._error(key_node, path, "`<<` takes a table or a list of tables")
                    merged = {**self._pairs(table, path, merges + 1), **merged}
                continue
            key = self._key(key_node, path)
            if key in own:
                line = own[key][0].start_mark.line + 1
                text = f"the key {key!r} is a duplicate, first given on line {line}; remove one"
                raise self._error(key_node, path, text)
            own[key] = (key_node, value_node)
        return {**merged, **own}

    def _key(self, node: Node, path: SettingPath) -> str:
        inside = f"in {key_text(path)}" if path else "at the top"
        if not isinstance(node, ScalarNode):
            raise self._error(node, (), f"a key {inside} is not text; text in braces needs quotes")
        key: str = node.value
        if node.tag != _TAG + "str":
            shown = f"the key {key}" if key else "an empty key"
            raise self._error(node, (), f"{shown} {inside} is not text; write it in quotes")
        if odd := next((c for c in key if not c.isprintable()), ""):
            text = f"the key {key!r} {inside} has the character U+{ord(odd):04X}; retype it"
            raise self._error(node, (), text)
        if not key.strip():
            raise self._error(node, (), f"an empty key {inside}; give it a name")
        return key

    def _scalar(self, node: ScalarNode, path: SettingPath) -> Any:
        text: str = node.value
        reader = _SCALARS.get(node.tag)
        if reader is None:
            raise self._error(node, path, _tag_problem(node.tag))
        try:
            return reader(text)
        except ValueError as e:
            raise self._error(node, path, str(e)) from None

    def _count(self, node: Node, path: SettingPath, merges: int = 0) -> None:
        self._values += 1
        if self._values > _MAX_VALUES:
            raise ConfigError(f"{self._source}: more than {_MAX_VALUES} values")
        if len(path) + merges > _MAX_DEPTH:
            raise self._error(node, path[:3], f"nested deeper than {_MAX_DEPTH}")

    def _error(self, node: Node, path: SettingPath, text: str) -> ConfigError:
        mark = node.start_mark
        key = f"{key_text(path)}: " if path else ""
        return ConfigError(f"{self._source}:{mark.line + 1}:{mark.column + 1}: {key}{text}")


def _merged_tables(node: Node) -> list[Node]:
    return list(node.value) if isinstance(node, SequenceNode) else [node]


def _tag_problem(tag: str) -> str:
    shown = f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
    return (
        f"the tag {shown} is not supported; write the value itself, or refer to a secret by "
        "{file: /path} or {env: NAME}"
    )


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("a value must not contain a NUL character")
    return text


def _integer(text: str) -> int:
    try:
        number = int(text, 16 if text.startswith("0x") else 10)
    except ValueError:  # also raised for over 4,300 digits
        raise ValueError("not a whole number; write text in quotes") from None
    if number not in _INT_RANGE:
        raise ValueError("the number has more than 64 bits; if it is text, write it in quotes")
    return number


def _decimal(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("not a number; write text in quotes") from None
    if not math.isfinite(number):
        raise ValueError("the number is too large; if it is text, write it in quotes")
    return number


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("not true or false")
    return text.lower() == "true"


_SCALARS: Final[Mapping[str, Callable[[str], Any]]] = {
    _TAG + "str": _text,
    _TAG + "int": _integer,
    _TAG + "float": _decimal,
    _TAG + "bool": _boolean,
    _TAG + "null": lambda _: None,
    _TAG + "merge": _text,  # `<<` as a value
}


def _check_depth(text: str, source: str) -> None:
    # libyaml composes by recursion in C: thousands of brackets would crash the process.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            where = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
            raise ConfigError(f"{where}: nested deeper than {_MAX_DEPTH}")


_CONFLICT: Final = re.compile(r"^(?:<{7}|>{7}) ", re.M)
_HINTS: Final = (
    ("cannot start any token", "write text that begins with this character in quotes"),
    ("mapping values are not allowed", "write text with `: ` in it in quotes"),
    ("expected node content", "write text such as ::1 in quotes"),
    ("expected alphabetic or numeric character", "write text that begins with * or & in quotes"),
)


def _plain(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = error.problem or error.context or "no value"
    mark = error.problem_mark
    line = text.split("\n")[mark.line] if mark and mark.line <= text.count("\n") else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab is used for indentation; indent with spaces"
    if "found another document" in problem:
        return "a second document begins here; a file may contain only one, without `---` inside"
    if conflict := _CONFLICT.search(text):
        at = text.count("\n", 0, conflict.start()) + 1
        return f"line {at} is a version control conflict marker; resolve the conflict"
    hint = next((f"; {hint}" for part, hint in _HINTS if part in problem), "")
    context = f" {error.context}" if error.context else ""
    return f"not YAML: {problem}{context}{hint}"
