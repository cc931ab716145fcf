"""A request to the mirror, as ASGI describes it, and what it asks for. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from aitorrent_hub.upstream.described import Place
from aitorrent_hub.upstream.headers import Pairs, for_upstream
from aitorrentd.api.faces.hosts import host_of, is_own
from aitorrentd.api.models.file_names import check_path, check_repo

_RESOLVE: Final = re.compile(
    r"/((?:(?:datasets|spaces)/)?[^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)", re.ASCII
)
_API: Final = re.compile(
    r"/api/(models|datasets|spaces)/([^/]+(?:/[^/]+)?)(?:/(revision|tree|paths-info)/([^/]+)(/.*)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request."""

    method: str
    target: str
    "Path and query, as they were sent."
    path: str
    "The path, as it was sent, with one slash at its beginning."
    headers: Pairs
    "What the Hub gets of them; lower-case names."
    host: str
    "The Host header."
    asks: dict[str, str]
    "All headers, by lower-case name; of several, the last."

    @property
    def range(self) -> str:
        """The Range header."""
        return self.asks.get("range", "")


def request_of(scope: Any) -> Request:
    """The request of an ASGI scope."""
    # Programs join the endpoint `http://127.0.0.1:8042/` and `/api/…`.
    path = "/" + scope["raw_path"].decode("latin-1").lstrip("/")
    query = scope["query_string"].decode("latin-1")
    asks = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return Request(
        scope["method"],
        f"{path}?{query}" if query else path,
        path,
        for_upstream(scope["headers"]),
        asks.get("host", ""),
        asks,
    )


def is_trustworthy(request: Request, hosts: tuple[str, ...]) -> bool:
    """Whether a program sent the request, not a page in a browser."""
    if not is_own(host_of(request.host), hosts):
        return False
    site = request.asks.get("sec-fetch-site", "none")
    return site in ("none", "same-origin") and "origin" not in request.asks


def place_of(request: Request) -> Place | None:
    """The file that a path `/org/name/resolve/REVISION/PATH` names; None for any other path, and
    for names that are not safe to use here, which only the Hub may judge."""
    match = _RESOLVE.fullmatch(request.path)
    if match is None:
        return None
    try:
        return Place(
            check_repo(unquote(match[1])), unquote(match[2]), check_path(unquote(match[3]))
        )
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Asked:
    """A document about a repository."""

    repo: str
    "With `datasets/` or `spaces/` in front."
    what: str
    "revision, tree or paths-info."


def asked_of(request: Request) -> Asked | None:
    """The document that a path below `/api` names; None if it is none that the mirror reads."""
    match = _API.fullmatch(request.path)
    if match is None:
        return None
    kind, name, what = match[1], unquote(match[2]), match[3] or "revision"
    try:
        return Asked(check_repo(name if kind == "models" else f"{kind}/{name}"), what)
    except ValueError:
        return None
