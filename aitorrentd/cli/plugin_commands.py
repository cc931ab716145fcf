"""The commands that plugins add to `aitorrentctl`, known by name without importing a plugin.

An entry point of group `aitorrentd.cli` names a module with

    COMMANDS: dict[str, str] = {"hello": "Greet a person."}     command name -> one line of help
    def register(app: typer.Typer) -> None: ...                 adds those commands

`COMMANDS` is read from the module's source if it is a plain dictionary at the top level, so a
command only costs the import of its own module, and completion imports nothing. A module that
computes `COMMANDS` is imported for a name that no other module has. The full help imports all
modules, so that it lists no command that cannot run.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import typer

from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import clean
from aitorrentd.system.streams import stdout_to_stderr

if TYPE_CHECKING:
    from aitorrentd.system.distributions import Scan

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_FIRST_FUNCTION: Final = re.compile(r"^(?=@|def |async def |class )", re.M)
_NOT_LITERAL: Final = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)
"What `ast` raises for source that is no Python, or is nested too deeply."
_NO_MODULE: Final = "it has no COMMANDS, a map of text to text, or no function register"


class CommandModule(Protocol):
    """The module that an entry point of group `aitorrentd.cli` names."""

    COMMANDS: Mapping[str, str]

    def register(self, app: typer.Typer) -> None:
        """Add the commands."""


@dataclass(slots=True)
class _Entry:
    """An entry point, its declaration, and its module once imported."""

    point: Any
    "aitorrentd.system.distributions.Point"
    commands: Mapping[str, str] | None = None
    "None: not known before the import."
    module: CommandModule | None = None
    is_broken: bool = False

    @property
    def title(self) -> str:
        """The plugin and its distribution, for messages."""
        return clean(f"{self.point.name} of {self.point.dist}")


class PluginCommands:
    """The commands of entry points, found at most once.

    `reserved` are the names of the core's commands; `scan` finds the entry points, by default those
    of every installed distribution. A broken distribution is reported once, in one
    line, and affects no other command.
    """

    def __init__(
        self, reserved: Collection[str], *, scan: Callable[..., Scan] | None = None
    ) -> None:
        self._find = scan
        self._reserved = frozenset(reserved)
        self._entries: list[_Entry] | None = None
        self._owners: dict[str, _Entry] = {}
        self._disputes: dict[str, str] = {}
        "Command -> why a claim to it is ignored."
        self._told: set[str] = set()
        self.is_silent = False
        "True during completion, where a warning would spoil the line being typed."

    def names(self) -> list[str]:
        """Every command known without an import."""
        self._scan()
        return sorted(self._owners)

    def find(self, command: str) -> CommandModule | None:
        """The module that registers `command`, or None."""
        self._scan()
        if command not in self._owners:
            self._import_unknown()
        if command in self._disputes:
            self._warn(self._disputes[command])
        entry = self._owners.get(command)
        return None if entry is None else self._load(entry)

    def lines(self, *, verified: bool = False) -> dict[str, str]:
        """Each command in order of its name, with its line of help.

        `verified` omits, and reports, what cannot be imported.
        """
        self._scan()
        self._import_unknown()
        if verified:
            for entry in self._entries or ():
                if not _is_built_in(entry.point):
                    self._load(entry)
            self._share_out()
        for text in self._disputes.values():
            self._warn(text)
        return {name: (self._owners[name].commands or {})[name] for name in sorted(self._owners)}

    def problems(self) -> list[str]:
        """Problems with the commands of distributions, one sentence each; imports them all."""
        self.is_silent = True
        self.lines(verified=True)
        return sorted(self._told)

    def has_failed(self, command: str, error: BaseException) -> None:
        """Report that the register() of the owner of `command` failed."""
        entry = self._owners[command]
        self._fail(entry, error)

    def owns(self, module: object, command: str) -> bool:
        """Whether `module` may register `command`."""
        entry = self._owners.get(command)
        return entry is not None and entry.module is module

    def _scan(self) -> None:
        if self._entries is not None:
            return
        from aitorrentd.system import distributions

        # Users who miss a plugin's methods need to know too, not only those who miss its commands.
        scan = self._find or distributions.scan
        found = scan(distributions.COMMANDS, distributions.PLUGINS)
        for problem in found.problems:
            self._warn(problem.text)
        points = [p for p in found.points if p.group == distributions.COMMANDS]
        self._entries = [_Entry(p) for p in sorted(points, key=_rank)]
        for entry in self._entries:
            entry.commands = declared(entry.point)
            if entry.commands is None and _is_built_in(entry.point):
                self._load(entry)
        self._share_out()

    def _import_unknown(self) -> None:
        """Import the modules whose commands cannot be known otherwise."""
        unknown = [e for e in self._entries or () if e.commands is None and not e.is_broken]
        for entry in unknown:
            self._load(entry)
        if unknown:
            self._share_out()

    def _share_out(self) -> None:
        """Give each command to the one that may have it.

        The core and its plugins keep theirs. If several others claim the same command, none gets
        it: the user has to choose.
        """
        claims: dict[str, list[_Entry]] = {}
        for entry in self._entries or ():
            for command in () if entry.is_broken else entry.commands or ():
                claims.setdefault(command, []).append(entry)
        self._owners.clear()
        for command, entries in claims.items():
            first, *others = entries
            rivals = [e for e in others if e.point.dist != first.point.dist]
            if command in self._reserved or not _NAME.fullmatch(command):
                kept = (
                    "reserved by aitorrentctl" if command in self._reserved else "not a valid name"
                )
                text = (
                    f"command {clean(command)!r} of plugin {first.title} is ignored: it is {kept}"
                )
                self._disputes[command] = text
                continue
            if rivals:
                names = " and ".join(e.title for e in rivals)
                if _is_built_in(first.point):
                    text = (
                        f"command {command!r} of plugin {names} is ignored: it belongs to "
                        "aitorrentd"
                    )
                else:
                    text = (
                        f"command {command!r} is claimed by plugins {first.title} and "
                        f"{names} and is available from neither; uninstall all but one"
                    )
                self._disputes[command] = text
            if not rivals or _is_built_in(first.point):
                self._owners[command] = first

    def _load(self, entry: _Entry) -> CommandModule | None:
        """Import a module; one that fails in any way is reported and dropped."""
        if entry.module is not None or entry.is_broken:
            return entry.module
        try:
            with stdout_to_stderr():
                module = cast(CommandModule, entry.point.load())
            if not _is_map_of_text(module.COMMANDS) or not callable(module.register):
                raise TypeError(_NO_MODULE)
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # a third-party module, which may even call sys.exit()
            self._fail(entry, e)
            return None
        entry.module, entry.commands = module, module.COMMANDS
        return module

    def _fail(self, entry: _Entry, error: BaseException) -> None:
        entry.module, entry.is_broken = None, True
        reason = _NO_MODULE
        if not isinstance(error, AttributeError) or "COMMANDS" not in str(error):
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        text = clean(" ".join(reason.split()))[:300]
        self._warn(f"the commands of plugin {entry.title} are unavailable: {text}")

    def _warn(self, text: str) -> None:
        if text not in self._told and not self.is_silent:
            toolkit.warn(text)
        self._told.add(text)


def _is_built_in(point: Any) -> bool:
    from aitorrentd.system.distributions import CORE, normalized

    return normalized(point.dist) == CORE


def _rank(point: Any) -> tuple[bool, str, str]:
    return (not _is_built_in(point), point.name, point.dist)


def _is_map_of_text(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(line, str) for key, line in value.items()
    )


def declared(point: Any) -> Mapping[str, str] | None:
    """`COMMANDS` of the module that an entry point names, read without running its code; None where
    that is impossible."""
    try:
        if (loaded := sys.modules.get(point.module)) is not None:
            found, source = getattr(loaded, "COMMANDS", None), None
        else:
            found, source = None, _source(point.module)
    except Exception:
        # A fence: third-party import hooks may raise anything. The import reports it better.
        return None
    if source is not None:
        # Ours come before the first function, and every command waits for them.
        head = _FIRST_FUNCTION.split(source, 1)[0] if _is_built_in(point) else source
        try:
            found = _literal(head)
        except _NOT_LITERAL:
            return None
    return cast("Mapping[str, str]", found) if _is_map_of_text(found) else None


def _source(module: str) -> str | None:
    """The source of a module, found without importing its parent packages."""
    path, spec = None, None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((found for found in specs if found is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    read = getattr(spec.loader if spec else None, "get_source", None)
    return cast("str | None", read(module)) if read is not None else None


def _literal(source: str) -> object:
    """The value of `COMMANDS = {...}`, if the top level does nothing else with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    found: ast.expr | None = None
    uses = 0
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        names = [n for n in ast.walk(statement) if isinstance(n, ast.Name) and n.id == "COMMANDS"]
        uses += len(names)
        targets: Iterable[ast.expr] = ()
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = (statement.target,)
        if any(target in names for target in targets):
            found = getattr(statement, "value", None)
    return ast.literal_eval(found) if found is not None and uses == 1 else None
