"""An ASGI application as a server sees it, and what its clients may take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

Message = MutableMapping[str, Any]
"A scope, or an event of ASGI."
Receive = Callable[[], Awaitable[Message]]
"Awaits the next event from the client."
Send = Callable[[Message], Awaitable[None]]
"Sends an event to the client."
App = Callable[[Message, Receive, Send], Awaitable[None]]
"An ASGI 3 application; Starlette's are."

REFUSED: Final = "aitorrent.refused"
"In a scope: the status with which the server refused the rest of a request, in place of an answer."


class Aborted(Exception):
    """Raised by an application to cut the connection, so that its client sees an incomplete
    answer instead of a wrong one."""


@dataclass(frozen=True, slots=True)
class WebLimits:
    """What one client may take from a server."""

    connections: int = 512
    "Open at the same time; more are closed at once."
    header_bytes: int = 32 * 1024
    "Request line and headers together; more is answered with 431."
    body_bytes: int = 2**20
    "Of a request; more is answered with 413."
    header_s: float = 15.0
    "From the connection, or the first byte of a further request, to the end of its headers."
    body_s: float = 60.0
    "From the end of the headers to the end of the body."
    idle_s: float = 15.0
    "Between two requests on one connection."
    stalled_s: float = 60.0
    "A client that takes less than 16 KiB of a waiting answer in this time is cut off."
    per_address: int | None = None
    "Connections of one IP address at the same time; None = no limit of its own."
    one_host: bool = False
    "Whether a request must have exactly one Host header and a path, else it is answered with 400."
    cancels: bool = False
    "Whether a request's handler is cancelled when its client leaves."
    drain_s: float = 5.0
    "How long running answers may continue when the server stops."
