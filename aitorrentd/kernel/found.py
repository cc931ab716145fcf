"""Finds the installed plugins: entry points of the group `aitorrentd.plugins`.

A distribution that is damaged, or that claims another one's name, costs a message and its own
plugin, never anyone else's. Discovery reads metadata only, so a disabled plugin is never imported.
Each plugin is imported in its own thread, so that a hanging import delays the others but blocks
none.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from aitorrentd.api.plugin import SkipPlugin
from aitorrentd.errors import AitorrentError, Conflict, InvalidParams, TimedOut
from aitorrentd.kernel.reasons import reason
from aitorrentd.system import distributions
from aitorrentd.system.distributions import CORE as BUILTIN_DIST
from aitorrentd.system.distributions import normalized, shown

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"A plugin's name is also a directory, a logger, a settings table and a method prefix."
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
    "Extras of `dist` that the plugin needs in order to be imported."
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
        """A source for a plugin class in memory; `HelloWorldPlugin` becomes `hello_world`."""
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
    """The plugins to use, by rank, and the problems with others."""

    sources: tuple[PluginSource, ...]
    problems: tuple[tuple[str, str], ...] = ()
    "(name, sentence) for each plugin that cannot be used under its name."


def tier_of(dist: str) -> Literal["builtin", "third-party"]:
    """Whether a distribution's plugins are built-in or third-party."""
    return "builtin" if normalized(dist) == BUILTIN_DIST else "third-party"


def installed() -> Found:
    """One source per entry point of every distribution on the path; imports nothing.

    The problems are those of damaged distributions, whatever they were meant to provide.
    """
    scan = distributions.scan(distributions.PLUGINS, distributions.COMMANDS)
    plugins = [point for point in scan.points if point.group == distributions.PLUGINS]
    return Found(
        tuple(_from_entry_point(point) for point in plugins),
        tuple((problem.dist, problem.text) for problem in scan.problems),
    )


def _from_entry_point(point: distributions.Point) -> PluginSource:
    try:
        module, extras = point.module, point.extras
    except InvalidParams:
        module, extras = "", ()  # `load` reports the error
    return PluginSource(
        name=point.name,
        dist=point.dist,
        version=point.version,
        tier=tier_of(point.dist),
        load=point.load,
        extras=extras,
        package=module.partition(".")[0],
    )


def select(sources: Iterable[PluginSource]) -> Found:
    """One source for each name: built-in plugins first, then by name and distribution.

    A built-in plugin keeps its name. If several others share a name, none is used: the operator has
    to choose, and a row in state `broken` says so.
    """
    claims: dict[str, list[PluginSource]] = {}
    wrong: list[tuple[str, str]] = []
    for source in sorted(sources, key=lambda s: (s.tier != "builtin", s.name, s.dist)):
        if not NAME.fullmatch(source.name) or source.name in RESERVED:
            why = "is reserved" if source.name in RESERVED else f"does not match {NAME.pattern}"
            name = shown(source.name)
            wrong.append((name, f"plugin {name!r} of {source.dist} is ignored: its name {why}"))
        else:
            claims.setdefault(source.name, []).append(source)
    chosen = []
    for name, rivals in claims.items():
        first = rivals[0]
        if len(rivals) > 1:
            dists = " and ".join(source.dist for source in rivals)
            remedy = "uninstall all but one"
            if first.tier == "builtin":
                remedy = f"that of {first.dist} is used; uninstall the other"
            text = f"several distributions provide a plugin {name!r}: {dists}; {remedy}"
            wrong.append((name, text))
            if first.tier != "builtin":
                first = _disputed(name, rivals, text)
        chosen.append(first)
    return Found(tuple(chosen), tuple(wrong))


def _disputed(name: str, rivals: Sequence[PluginSource], text: str) -> PluginSource:
    def load() -> NoReturn:
        raise Conflict(text)

    dists = ", ".join(source.dist for source in rivals)
    return PluginSource(name=name, dist=dists, version="-", tier="third-party", load=load)


def missing_extra(source: PluginSource, error: ModuleNotFoundError) -> str:
    """How to install what the import of `source` lacked; empty if no extra explains it."""
    module = (error.name or "").partition(".")[0]
    if not source.extras or not module or module == source.package:
        return ""
    return f"aitorrentctl plugin install '{source.dist}[{','.join(source.extras)}]'"


async def load(source: PluginSource, *, timeout_s: float) -> object:
    """Import the plugin's class in a thread.

    Raises:
        TimedOut: the import takes longer than `timeout_s`; its thread is abandoned.
        Exception, SystemExit, KeyboardInterrupt: whatever the import raised.
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
    if isinstance(error, (Exception, SystemExit, KeyboardInterrupt)):
        raise error
    if error is not None:
        # A CancelledError, say, must not look like the cancellation of the waiting task.
        raise ImportError(f"it raised {type(error).__name__}")
    return value


def ranked(sources: Sequence[PluginSource] | None) -> Found:
    """`select` over the given sources, or over the installed ones if None."""
    there = installed() if sources is None else Found(tuple(sources))
    found = select(there.sources)
    return Found(found.sources, (*there.problems, *found.problems))


async def unusable(
    sources: Sequence[PluginSource] | None = None,
    *,
    left_out: Callable[[str], bool] = lambda name: False,
    timeout_s: float,
) -> list[str]:
    """What a start would report about distributions other than this one, one sentence each.

    Third-party plugins are imported to find out, unless `left_out` says that they are off.
    """
    found = ranked(sources)
    said = [text for _, text in found.problems]
    for source in found.sources:
        if source.tier == "builtin" or left_out(source.name):
            continue
        try:
            await load(source, timeout_s=timeout_s)
        except SkipPlugin:
            continue
        except AitorrentError as e:
            if e.message in said:
                continue
            why = e.message
        except (Exception, SystemExit, KeyboardInterrupt) as e:  # the plugin fence
            why = f"cannot be imported: {reason(e)}"
        else:
            continue
        said.append(f"plugin {source.name} of {source.dist}: {why}")
    return said
