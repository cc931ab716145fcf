"""Which plugins are installed: entry points of the group `aitorrentd.plugins`.

Finding reads metadata only, so a disabled plugin is never imported. Loading imports one plugin in
a thread of its own, so that an import that hangs delays the others and stops nobody.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, Literal, TypeVar

from aitorrentd.errors import TimedOut

T = TypeVar("T")

GROUP: Final = "aitorrentd.plugins"
BUILTIN_DIST: Final = "aitorrentd"
NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"A plugin's name is also a directory, a logger, a table in the settings and a method prefix."
RESERVED: Final = frozenset(
    {"api", "cli", "config", "control", "core", "kernel", "node", "plugin", "rpc", "worker"}
)
"Prefixes of the core's own methods and loggers."


@dataclass(frozen=True, slots=True)
class PluginSource:
    """Where a plugin comes from. `load` imports it and returns its class."""

    name: str
    dist: str
    version: str
    tier: Literal["builtin", "third-party"]
    load: Callable[[], object]
    extras: tuple[str, ...] = ()
    "Extras of `dist` without which the plugin cannot be imported."
    package: str = ""
    "Top-level package that holds the plugin's class."

    @classmethod
    def of(
        cls,
        plugin: Callable[[], object],
        *,
        name: str = "",
        dist: str = BUILTIN_DIST,
        version: str = "0",
        extras: tuple[str, ...] = (),
    ) -> PluginSource:
        """A plugin class that is at hand; `HelloWorldPlugin` is called `hello_world`."""
        title = getattr(plugin, "__name__", "plugin").removesuffix("Plugin")
        return cls(
            name=name or re.sub(r"(?<!^)(?=[A-Z])", "_", title).lower(),
            dist=dist,
            version=version,
            tier=tier_of(dist),
            load=lambda: plugin,
            extras=extras,
            package=getattr(plugin, "__module__", "").partition(".")[0],
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The plugins to use, in order of rank, and what was wrong with others."""

    sources: tuple[PluginSource, ...]
    problems: tuple[tuple[str, str], ...] = ()
    "(name, sentence) of each plugin that cannot be used under its name."


def tier_of(dist: str) -> Literal["builtin", "third-party"]:
    """Whose plugin one of this distribution is."""
    return "builtin" if re.sub(r"[-_.]+", "-", dist).lower() == BUILTIN_DIST else "third-party"


def installed() -> list[PluginSource]:
    """One source for each entry point of every distribution on the path; imports nothing."""
    return [_from_entry_point(point) for point in metadata.entry_points(group=GROUP)]


def _from_entry_point(point: metadata.EntryPoint) -> PluginSource:
    dist: Any = point.dist
    name, version = (dist.name, dist.version) if dist is not None else ("unknown", "0")
    return PluginSource(
        name=point.name,
        dist=name,
        version=version,
        tier=tier_of(name),
        load=point.load,
        extras=tuple(point.extras),
        package=point.module.partition(".")[0],
    )


def select(sources: Iterable[PluginSource]) -> Found:
    """One source for each name: built-in plugins first, then by name and distribution.

    Distributions that claim one name are told apart here, because the rest of the program knows a
    plugin by its name alone.
    """
    chosen: dict[str, PluginSource] = {}
    wrong: list[tuple[str, str]] = []
    for source in sorted(sources, key=lambda s: (s.tier != "builtin", s.name, s.dist)):
        if not NAME.fullmatch(source.name) or source.name in RESERVED:
            why = "is reserved" if source.name in RESERVED else f"does not match {NAME.pattern}"
            text = f"plugin {source.name!r} of {source.dist} is ignored: its name {why}"
            wrong.append((source.name, text))
        elif (first := chosen.get(source.name)) is not None:
            text = (
                f"two distributions offer a plugin {source.name!r}: {first.dist} and "
                f"{source.dist}; the one of {first.dist} is used, uninstall the other"
            )
            wrong.append((source.name, text))
        else:
            chosen[source.name] = source
    return Found(tuple(chosen.values()), tuple(wrong))


def missing_extra(source: PluginSource, error: ModuleNotFoundError) -> str:
    """How to install what the import of `source` lacked; empty when no extra explains it."""
    module = (error.name or "").partition(".")[0]
    if not source.extras or not module or module == source.package:
        return ""
    return f"aitorrentctl plugin install '{source.dist}[{','.join(source.extras)}]'"


async def load(source: PluginSource, *, timeout_s: float) -> object:
    """The plugin's class, imported in a thread.

    Raises:
        TimedOut: the import is not through after `timeout_s`; its thread is left to itself.
        BaseException: whatever the import raised.
    """
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()

    def settle(value: object, error: BaseException | None) -> None:
        if not loaded.done():
            loaded.set_result((value, error))

    def work() -> None:
        value: object = None
        error: BaseException | None = None
        try:
            value = source.load()
        except BaseException as e:  # an import may call sys.exit()
            error = e
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name=f"load:{source.name}", daemon=True).start()
    try:
        value, error = await asyncio.wait_for(loaded, timeout_s)
    except TimeoutError:
        raise TimedOut(f"its import took more than {timeout_s:g} s") from None
    if error is not None:
        raise error
    return value


def ranked(sources: Sequence[PluginSource] | None) -> Found:
    """`select` over the given sources, or over those installed when None."""
    return select(installed() if sources is None else sources)
