"""HTTP routes that plugins declare, and who may call them.

The HTTP plugin serves them; a plugin returns them from the hook `aitorrent_routes`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.plugin import Role

if TYPE_CHECKING:
    from starlette.requests import Request

_SEGMENT: Final = re.compile(r"\{[a-z_]+(:path)?\}|[A-Za-z0-9._~!$&'()*+,;=:@-]+", re.ASCII)
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
MAX_BODY_BYTES: Final = 64 * 2**20
"The largest `max_body` that a route may ask for."


class Scope(Enum):
    """What a caller of the HTTP server may do; a token has one or more of them."""

    PUBLIC = "public"
    "Anybody whose request is not a forgery."
    GENERATE = "generate"
    "Have models answer; it includes no look at the node."
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


GRANTS: Final[dict[str, frozenset[Scope]]] = {
    "generate": frozenset({Scope.PUBLIC, Scope.GENERATE}),
    "read": frozenset({Scope.PUBLIC, Scope.READ}),
    "operate": frozenset({Scope.PUBLIC, Scope.GENERATE, Scope.READ, Scope.OPERATE}),
    "admin": frozenset(Scope),
}
"The scopes behind each role of a token; `read` to `admin` are those of the control socket."


def scopes_of(role: Role) -> frozenset[Scope]:
    """The scopes of a role of the control socket."""
    return GRANTS[role.name.lower()]


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """A path that a plugin answers while it runs.

    `endpoint` gets Starlette's request, and returns one of Starlette's responses or a
    `streaming.Stream`. It may raise an AitorrentError, which is answered as JSON
    with the fitting status. It is cancelled when its client leaves. The id of the request is
    `request.scope["aitorrent.request_id"]`.
    """

    path: str
    "Such as `/v1/models/{name}`; `{name:path}` at the end takes the rest, slashes included."
    methods: frozenset[str]
    "GET includes HEAD."
    endpoint: Callable[[Request], Awaitable[App]]
    scope: Scope
    summary: str
    max_body: int = 2**20
    "Bytes; more is answered with 413."
    slots: int | None = None
    "Requests at the same time; more are answered with 429. None = no limit of its own."
    browser: bool = False
    "Whether pages of the origins in `plugins.http.origins` may call it."
    error_body: Callable[[HttpFault, str], bytes] | None = None
    """The JSON of an error, from the fault and the id of the request; None = as OpenAI's clients
    read it."""
    error_header: str = ""
    """A header, in lower case, that only clients of this dialect send: errors of paths without an
    `error_body` are told to them by this one, and so are paths that nothing has."""
    listed: bool = True
    "Whether the page at `/` and the OpenAPI document have it; a path that always refuses need not."

    body: Callable[[], Mapping[str, Any]] | None = None
    "Makes the JSON Schema of a request's body, for the OpenAPI document; None = any object."

    answers: Callable[[], Mapping[str, Mapping[str, Any]]] | None = None
    """Makes the JSON Schemas of what is answered with status 200, by media type, for the OpenAPI
    document; of a stream that of one event's data, or of one line. None = anything."""
    error_schema: Callable[[], Mapping[str, Any]] | None = None
    "Makes the JSON Schema of what `error_body` writes; None = any object."

    @property
    def template(self) -> str:
        """The path as people read it: `/v1/models/{name}` also where the name may have slashes."""
        return self.path.replace(":path}", "}")


def problem_of(route: HttpRoute) -> str:
    """What is wrong with a declaration; empty if nothing is."""
    if not isinstance(route.path, str) or not _is_path(route.path):
        return f"path {route.path!r} is not of the form /a/{{name}}/b"
    if not route.methods or not _METHODS.issuperset(route.methods):
        return f"methods of {route.path} are not among {', '.join(sorted(_METHODS))}"
    if not callable(route.endpoint):
        return f"the endpoint of {route.path} cannot be called"
    if not isinstance(route.scope, Scope):
        return f"scope of {route.path} is not a Scope"
    if not 0 <= route.max_body <= MAX_BODY_BYTES:
        return f"max_body of {route.path} is not from 0 to {MAX_BODY_BYTES}"
    if route.slots is not None and route.slots < 1:
        return f"slots of {route.path} is below 1"
    return ""


def _is_path(path: str) -> bool:
    if path == "/":
        return True
    first, *segments = path.split("/")
    has_tail = any(segment.endswith(":path}") for segment in segments[:-1])
    return first == "" and not has_tail and all(_SEGMENT.fullmatch(each) for each in segments)


def collide(a: HttpRoute, b: HttpRoute) -> bool:
    """Whether one request could match both routes."""
    if not a.methods & b.methods:
        return False
    ours, theirs = a.path.split("/")[1:], b.path.split("/")[1:]
    for mine, other in zip(ours, theirs, strict=False):
        if mine.endswith(":path}") or other.endswith(":path}"):
            return True
        if mine != other and not mine.startswith("{") and not other.startswith("{"):
            return False
    return len(ours) == len(theirs)
