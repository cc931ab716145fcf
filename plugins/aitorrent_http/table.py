"""Finds the route for a path. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.routes import HttpRoute

_SLASHES: Final = re.compile("//+")
_NAME: Final = re.compile(r"\{([a-z_]+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Found:
    """The route for a request, or what there is instead."""

    plugin: str
    route: HttpRoute | None
    parts: dict[str, str]
    "The values of `{name}` in the path."
    allowed: frozenset[str]
    "Methods that the path has; empty if nothing has this path."
    error_body: Callable[[HttpFault, str], bytes] | None = None
    "How the path says errors, see HttpRoute; also for a method that it does not have."


class Table:
    """The routes of all plugins at one moment."""

    def __init__(self, routes: Iterable[tuple[str, HttpRoute]]) -> None:
        self.routes = tuple(routes)
        self._dialects = {
            route.error_header: route.error_body for _, route in self.routes if route.error_header
        }
        self._static: dict[str, list[tuple[str, HttpRoute]]] = {}
        self._patterns: list[tuple[re.Pattern[str], str, HttpRoute]] = []
        for plugin, route in self.routes:
            if "{" in route.path:
                self._patterns.append((_pattern(route.path), plugin, route))
            else:
                self._static.setdefault(route.path, []).append((plugin, route))

    def error_body(self, headers: Iterable[str]) -> Callable[[HttpFault, str], bytes] | None:
        """How a client with these headers reads errors, if they tell; see HttpRoute."""
        return next((self._dialects[name] for name in headers if name in self._dialects), None)

    def hint(self, method: str, raw_path: str) -> str:
        """What is wrong with the base URL of a client that asks for a path that nothing has."""
        if raw_path.startswith("/v1/v1/"):
            return "the base URL has /v1 twice"
        if self.find(method, f"/v1{raw_path}").route is not None:
            return "the base URL ends in /v1"
        return "GET / lists them"

    def find(self, method: str, raw_path: str) -> Found:
        """The route for a path as it was sent; %2F in it is no slash. A path that nothing has may
        have slashes too many: clients put one between a base URL that ends in one and the rest."""
        found = self._exact(method, raw_path)
        if not found.allowed and (tidy := _SLASHES.sub("/", raw_path).rstrip("/")) != raw_path:
            return self._exact(method, tidy)
        return found

    def _exact(self, method: str, raw_path: str) -> Found:
        method = "GET" if method == "HEAD" else method
        candidates: list[tuple[str, HttpRoute, dict[str, str]]] = [
            (plugin, route, {}) for plugin, route in self._static.get(raw_path, ())
        ]
        candidates += [
            (plugin, route, {name: unquote(text) for name, text in match.groupdict().items()})
            for pattern, plugin, route in self._patterns
            if (match := pattern.fullmatch(raw_path))
        ]
        for plugin, route, parts in candidates:
            if method in route.methods:
                return Found(plugin, route, parts, route.methods, route.error_body)
        allowed = frozenset(m for _, route, _ in candidates for m in route.methods)
        said = next((route.error_body for _, route, _ in candidates), None)
        return Found("", None, {}, allowed, said)


def _pattern(path: str) -> re.Pattern[str]:
    parts, at = [], 0
    for match in _NAME.finditer(path):
        parts.append(re.escape(path[at : match.start()]))
        parts.append(f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})")
        at = match.end()
    return re.compile("".join(parts) + re.escape(path[at:]), re.DOTALL)
