"""Descriptions of commands and settings, extracted from the code.

For generated documentation (manual pages). Imports every installed plugin.
"""

from __future__ import annotations

import ast
import asyncio
import enum
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

_LOAD_S: Final = 60.0
_NAMES: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    SecretStr: "secret",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument or option of a command."""

    usage: str
    "As shown in a usage line: `--watch`, `KEY`."
    text: str
    required: bool
    is_option: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `aitorrentctl`."""

    words: tuple[str, ...]
    text: str
    parameters: tuple[Parameter, ...]

    @property
    def usage(self) -> str:
        """The command with its parameters, optional ones in brackets."""
        shown = [p.usage if p.required else f"[{p.usage}]" for p in self.parameters]
        return " ".join([*self.words, *shown])


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the configuration."""

    key: str
    kind: str
    default: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """The settings below one key."""

    key: str
    text: str
    settings: tuple[Setting, ...]


def commands() -> list[Command]:
    """Every command, including those of installed plugins, in --help order."""
    from aitorrentd.cli.app import root
    from aitorrentd.cli.toolkit import PROGRAM

    group = root()
    context = group.make_context(PROGRAM, ["status"], resilient_parsing=True)
    found: list[Command] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None:
            found += _commands((name,), command)
    return found


def _commands(words: tuple[str, ...], command: Any) -> Iterator[Command]:
    inner = getattr(command, "commands", None)
    if inner is not None:
        for name, below in inner.items():
            yield from _commands((*words, name), below)
        return
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    shown.sort(key=lambda p: p.param_type_name != "option")
    yield Command(words, inspect.cleandoc(command.help or ""), tuple(map(_parameter, shown)))


def _parameter(param: Any) -> Parameter:
    is_option = param.param_type_name == "option"
    metavar = param.metavar or param.name.upper()
    if not is_option:
        usage = f"{metavar}..." if param.nargs == -1 else metavar
    elif getattr(param, "is_flag", False):
        usage = ", ".join(sorted(param.opts, key=len))
    else:
        usage = f"{', '.join(sorted(param.opts, key=len))} {metavar}"
    return Parameter(usage, param.help or "", bool(param.required), is_option)


def core_tables() -> list[Table]:
    """The settings of the daemon itself."""
    from aitorrentd.config.model import Settings

    tables = []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            tables.append(table_of(name, kind))
    top = [s for s in _settings(Settings, "") if s.key not in {t.key for t in tables}]
    return [Table("", "", tuple(s for s in top if s.key != "plugins")), *tables]


def plugin_tables() -> list[tuple[str, str, list[Table]]]:
    """(name, summary, tables) of each installed plugin, by rank."""
    return asyncio.run(_plugin_tables())


async def _plugin_tables() -> list[tuple[str, str, list[Table]]]:
    from aitorrentd.kernel.found import load, ranked

    found = []
    for source in ranked(None).sources:
        made: Any = await load(source, timeout_s=_LOAD_S)
        info = made().aitorrent_info()
        key = f"plugins.{source.name}"
        tables = [table_of(key, info.config)]
        tables += [table_of(f"{key}.{name}[]", kind) for name, kind in _lists(info.config)]
        found.append((source.name, info.summary, tables))
    return found


def table_of(key: str, model: type[BaseModel]) -> Table:
    """The settings of a model below `key`."""
    text = " ".join(inspect.cleandoc(model.__doc__ or "").split())
    return Table(key, text, tuple(_settings(model, f"{key}.")))


def _lists(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Fields whose entries are themselves tables."""
    for name, field in model.model_fields.items():
        for kind in _parts(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield name, kind


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    for inner in get_args(kind):
        yield from _parts(inner)


def _settings(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    notes = _notes(model)
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _shown(field.get_default())
        text = field.description or notes.get(name, "")
        yield Setting(f"{prefix}{field.alias or name}", kind_text(field.annotation), default, text)


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        return ""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_shown(v) for v in value)}]"
    return "{}" if value == {} else str(value)


def kind_text(kind: Any) -> str:
    """A type in words: `text or null`, `list of whole number`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(str(value) for value in arguments)
    if origin is Union or origin is types.UnionType:
        return " or ".join(dict.fromkeys(kind_text(a) for a in arguments))
    if origin in (tuple, list, set, frozenset) and arguments:
        return f"list of {kind_text(arguments[0])}"
    if origin is dict or kind is dict:
        return "table"
    if origin is not None and arguments:  # Annotated
        return kind_text(arguments[0])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "table"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(str(member.value) for member in kind)
    return _NAMES.get(kind) or getattr(kind, "__name__", str(kind)).lower()


def _notes(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field of a model, if the source has one."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if kind is BaseModel or not issubclass(kind, BaseModel):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        before: ast.stmt | None = None
        for statement in getattr(body, "body", []):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                found[before.target.id] = statement.value.value
            before = statement
    return found
