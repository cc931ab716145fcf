"""Calls plugin hooks; every call goes through a fence.

pluggy aborts a call when one implementation raises, and it accepts misspelt hooks. So the kernel
calls one plugin at a time, checks the type of the result, and rejects unknown hooks at
registration.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

import pluggy
from pydantic import BaseModel

from aitorrentd.api import hooks as specs
from aitorrentd.api.context import Clock, PluginContext
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.faces.routes import problem_of as problem_of_route
from aitorrentd.api.monitoring.families import PREFIX, Family
from aitorrentd.api.monitoring.families import problem_of as problem_of_family
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.network.transport import WireProtocol
from aitorrentd.api.plugin import (
    Check,
    HealthWarning,
    Method,
    PluginConfig,
    PluginInfo,
    Price,
    Role,
    Verdict,
)
from aitorrentd.api.services import ServiceKey
from aitorrentd.errors import InvalidParams, PluginError
from aitorrentd.kernel.reasons import reason
from aitorrentd.validation import suggestion

T = TypeVar("T")

HOOKS: Final = frozenset(name for name in vars(specs) if name.startswith("aitorrent_"))
POLICIES: Final[Mapping[str, type]] = {
    "aitorrent_admit_peer": Verdict,
    "aitorrent_price": Price,
}
POLICY_BUDGET_S: Final = 0.001
MAX_ITEMS: Final = 1000
"A hook that returns more is assumed to loop."
_METHOD_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_]+)+")


class Misdeclared(PluginError):
    """A plugin's declaration breaks the rules; restarting it would not help."""


@dataclass(frozen=True, slots=True)
class Contributions:
    """What a plugin contributes while it runs."""

    methods: tuple[Method, ...] = ()
    routes: tuple[HttpRoute, ...] = ()
    protocols: tuple[WireProtocol, ...] = ()
    checks: tuple[Check, ...] = ()


def contained(call: Callable[[], T], what: str) -> T:
    """Run `call()`, turning SystemExit and the like into PluginError: they must not reach us."""
    try:
        return call()
    except Exception:
        raise
    except BaseException as e:
        raise PluginError(f"{what} raised {type(e).__name__}") from e


class Hooks:
    """The hook implementations of one node's plugins."""

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._manager = pluggy.PluginManager(specs.PROJECT)
        self._manager.add_hookspecs(specs)
        self._slow: set[str] = set()
        self._unmeasured: set[str] = set()
        "Plugins whose metrics could not be read the last time."

    def register(self, name: str, plugin: object) -> None:
        """Register a plugin object.

        Raises:
            Misdeclared: an unknown hook, unknown arguments, a wrapper, or a hook without its
            `@hookimpl`.
        """
        try:
            contained(lambda: self._manager.register(plugin, name=name), "registration")
            self._check(plugin)
        except Exception as e:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            if isinstance(e, Misdeclared):
                raise
            raise Misdeclared(reason(e)) from e

    def forget(self, name: str) -> None:
        """Unregister a plugin object; does nothing if it is unknown."""
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _check(self, plugin: object) -> None:
        callers = self._manager.get_hookcallers(plugin) or []
        for caller in callers:
            if not caller.has_spec():
                raise Misdeclared(f"unknown hook {caller.name}" + suggestion(caller.name, HOOKS))
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin and (impl.wrapper or impl.hookwrapper):
                    raise Misdeclared(
                        f"{caller.name} is a hook wrapper; wrappers are not supported"
                    )
        unmarked = HOOKS.intersection(dir(plugin)) - {caller.name for caller in callers}
        if unmarked:
            raise Misdeclared(f"{', '.join(sorted(unmarked))} is not marked with @hookimpl")

    def _ask(self, name: str, hook: str, arguments: Mapping[str, Any]) -> Any:
        """The result of `hook` for plugin `name`; None if it has no such hook."""
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            if impl.plugin_name == name:
                return _call(impl, hook, arguments)
        return None

    def info(self, name: str) -> PluginInfo:
        """The plugin's manifest.

        Raises:
            Misdeclared: it is missing, or of the wrong type.
        """
        info = self._ask(name, "aitorrent_info", {})
        if info is None:
            raise Misdeclared("it has no aitorrent_info hook, or the hook returned None")
        if not isinstance(info, PluginInfo):
            raise Misdeclared(f"aitorrent_info returned {_kind(info)}, not a PluginInfo")
        if info.name != name:
            raise Misdeclared(f"its PluginInfo is named {info.name!r}, its entry point {name!r}")
        for field in ("provides", "requires", "wants"):
            keys = getattr(info, field)
            if not isinstance(keys, tuple) or not all(isinstance(k, ServiceKey) for k in keys):
                raise Misdeclared(f"PluginInfo.{field} is not a tuple of ServiceKey")
        if not (isinstance(info.config, type) and issubclass(info.config, PluginConfig)):
            raise Misdeclared("PluginInfo.config is not a class derived from PluginConfig")
        if not isinstance(info.summary, str):
            raise Misdeclared(f"PluginInfo.summary is {_kind(info.summary)}, not a string")
        if (
            not isinstance(info.start_timeout_s, (int, float))
            or not 0 < info.start_timeout_s <= 600
        ):
            raise Misdeclared("PluginInfo.start_timeout_s is not a number above 0 and at most 600")
        _check_families(info.metrics)
        return info

    def lifespan(self, name: str, ctx: PluginContext) -> AbstractAsyncContextManager[None]:
        """The plugin's lifespan; an empty one for a plugin that only declares.

        Raises:
            Misdeclared: not an async context manager.
        """
        manager = self._ask(name, "aitorrent_lifespan", {"ctx": ctx})
        if manager is None:
            return nullcontext()
        if not isinstance(manager, AbstractAsyncContextManager):
            _close(manager)
            hint = "; put @asynccontextmanager on it" if inspect.isasyncgen(manager) else ""
            raise Misdeclared(
                f"aitorrent_lifespan returned {_kind(manager)}, not an async context manager{hint}"
            )
        return manager

    def contributions(self, name: str, ctx: PluginContext) -> Contributions:
        """The plugin's contributions, checked one by one.

        Raises:
            Misdeclared: one of them breaks the rules.
        """
        methods = self._items(name, "aitorrent_methods", ctx, Method)
        protocols = self._items(name, "aitorrent_protocols", ctx, WireProtocol)
        checks = self._items(name, "aitorrent_checks", ctx, Check)
        for method in methods:
            _check_method(name, method)
        for protocol in protocols:
            _check_protocol(protocol)
        _unique("method", [m.name for m in methods])
        _unique("protocol", [p.id for p in protocols])
        _unique("check", [c.name for c in checks])
        routes = self._items(name, "aitorrent_routes", ctx, HttpRoute)
        for route in routes:
            if problem := problem_of_route(route):
                raise Misdeclared(problem)
        _unique("route", [f"{m} {r.path}" for r in routes for m in sorted(r.methods)])
        return Contributions(methods, routes, protocols, checks)

    def health(self, name: str, ctx: PluginContext) -> list[HealthWarning]:
        """Problems that the plugin reports; a failing hook is itself a problem."""
        try:
            return list(self._items(name, "aitorrent_health", ctx, HealthWarning))
        except Exception as e:
            self._log.warning("plugin %s: its health hook failed: %s", name, reason(e))
            return [HealthWarning("health_hook", f"its health hook failed: {reason(e)}")]

    def metrics(self, name: str, ctx: PluginContext, declared: tuple[Family, ...]) -> list[Metric]:
        """What the plugin measures now.

        Raises:
            PluginError: its hook fails, or reads what it did not declare; logged once.
        """
        try:
            found = list(self._items(name, "aitorrent_metrics", ctx, Metric))
            if stray := [m.family.name for m in found if m.family not in declared]:
                raise Misdeclared(f"{stray[0]} is not in its PluginInfo.metrics")
        except Exception as e:
            if name not in self._unmeasured:
                self._unmeasured.add(name)
                self._log.warning("plugin %s: its metrics cannot be read: %s", name, reason(e))
            raise PluginError(f"the metrics of {name} cannot be read: {reason(e)}") from e
        self._unmeasured.discard(name)
        return found

    def decide(
        self, hook: str, arguments: Mapping[str, Any], *, asked: Callable[[str], bool]
    ) -> Any:
        """The first opinion on a policy question, among the plugins for which `asked` is true.

        Plugins registered later come first, as everywhere in pluggy. A plugin that fails or returns
        the wrong type has no opinion.

        Raises:
            InvalidParams: not a policy hook, or an argument is missing.
        """
        wanted = POLICIES.get(hook)
        if wanted is None:
            raise InvalidParams(f"{hook} is not a policy hook" + suggestion(hook, POLICIES))
        caller = getattr(self._manager.hook, hook)
        if missing := set(caller.spec.argnames) - set(arguments):
            raise InvalidParams(f"{hook} needs the argument {', '.join(sorted(missing))}")
        for impl in reversed(caller.get_hookimpls()):
            if not asked(impl.plugin_name):
                continue
            opinion = self._opinion(impl, hook, arguments, wanted)
            if opinion is not None:
                return opinion
        return None

    def _opinion(self, impl: Any, hook: str, arguments: Mapping[str, Any], wanted: type) -> Any:
        name = impl.plugin_name
        began = self._clock.monotonic()
        try:
            opinion = _call(impl, hook, arguments)
        except Exception as e:
            self._log.warning("plugin %s: %s failed and is ignored: %s", name, hook, reason(e))
            return None
        took = self._clock.monotonic() - began
        if took > POLICY_BUDGET_S and name not in self._slow:
            self._slow.add(name)
            self._log.warning(
                "plugin %s: %s took %.1f ms; policy hooks have %.0f ms",
                name,
                hook,
                took * 1e3,
                POLICY_BUDGET_S * 1e3,
            )
        if opinion is not None and not isinstance(opinion, wanted):
            _close(opinion)
            self._log.warning(
                "plugin %s: %s returned %s and is ignored", name, hook, _kind(opinion)
            )
            return None
        return opinion

    def _items(self, name: str, hook: str, ctx: PluginContext, kind: type[T]) -> tuple[T, ...]:
        answer = self._ask(name, hook, {"ctx": ctx})
        if answer is None:
            return ()
        if not isinstance(answer, Iterable) or isinstance(answer, (str, bytes)):
            _close(answer)
            raise Misdeclared(f"{hook} returned {_kind(answer)}, not a list of {kind.__name__}")
        items = contained(lambda: tuple(islice(answer, MAX_ITEMS + 1)), hook)
        if len(items) > MAX_ITEMS:
            raise Misdeclared(f"{hook} lists more than {MAX_ITEMS} items")
        for item in items:
            if not isinstance(item, kind):
                raise Misdeclared(f"{hook} lists {_kind(item)}, not a {kind.__name__}")
        return items


def _call(impl: Any, hook: str, arguments: Mapping[str, Any]) -> Any:
    given = [arguments[name] for name in impl.argnames]
    return contained(lambda: impl.function(*given), hook)


def _check_method(plugin: str, method: Method) -> None:
    if not isinstance(method.name, str) or not _METHOD_NAME.fullmatch(method.name):
        raise Misdeclared(f"method {method.name!r} is not of the form {plugin}.verb")
    if not method.name.startswith(f"{plugin}."):
        raise Misdeclared(f"method {method.name} does not start with {plugin}.")
    if not callable(method.handler):
        raise Misdeclared(f"the handler of method {method.name} cannot be called")
    if not isinstance(method.role, Role):
        raise Misdeclared(f"the role of method {method.name} is {_kind(method.role)}, not a Role")
    for model in (method.params, method.result):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise Misdeclared(f"params and result of method {method.name} must be pydantic models")


def _check_families(families: object) -> None:
    if not isinstance(families, tuple) or not all(isinstance(f, Family) for f in families):
        raise Misdeclared("PluginInfo.metrics is not a tuple of Family")
    for family in families:
        if problem := problem_of_family(family):
            raise Misdeclared(problem)
        if not family.name.startswith(PREFIX):
            raise Misdeclared(f"metric {family.name} does not start with {PREFIX}")
    _unique("metric", [family.base for family in families])


def _check_protocol(protocol: WireProtocol) -> None:
    name = protocol.id
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= 255 or not name.isprintable():
        raise Misdeclared(f"protocol id {name!r} is not a string of 1 to 255 bytes")
    if not callable(protocol.handler):
        raise Misdeclared(f"the handler of protocol {name} cannot be called")
    if not isinstance(protocol.max_streams, int) or protocol.max_streams < 1:
        raise Misdeclared(f"max_streams of protocol {name} is not an integer of at least 1")


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Misdeclared(f"{what} {', '.join(twice)} is declared twice")


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _close(value: object) -> None:
    # an async def hook returns a coroutine that nothing would await
    if inspect.iscoroutine(value):
        value.close()
