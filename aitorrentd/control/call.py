"""One call of a control connection: what its handler sees, and how its errors are encoded."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Protocol

from aitorrentd.api.plugin import Method, Role
from aitorrentd.control import framing
from aitorrentd.errors import AitorrentError, ConfigError, InvalidParams

_MAX_MESSAGE_CHARS: Final = 4096
_MAX_TRACE_CHARS: Final = 200


class Outbox(Protocol):
    """The sending half of a connection."""

    def send(self, frame: bytes) -> None:
        """Write a frame; never waits."""

    def send_progress(self, ident: int, frame: bytes) -> None:
        """Write a progress frame, or keep only the newest of each call while the peer is slow."""

    def ended(self, ident: int) -> None:
        """The call ended; its last frame follows."""

    async def writable(self) -> None:
        """Wait while too much is unsent."""


class Call:
    """One open call; the CallContext of its handler."""

    __slots__ = (
        "_outbox",
        "_trace",
        "credit",
        "deadline_s",
        "has_credit",
        "ident",
        "is_open",
        "method",
        "plugin",
        "role",
        "started",
        "stop_reason",
        "task",
    )

    def __init__(self, ident: int, plugin: str, method: Method, role: Role, outbox: Outbox) -> None:
        self.ident = ident
        self.plugin = plugin
        self.method = method
        self.role = role
        self.deadline_s: float | None = None
        self.credit = framing.DEFAULT_CREDIT
        self.has_credit: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None
        self.stop_reason: AitorrentError | None = None
        "Why the task is being cancelled, for the caller."
        self.is_open = True
        self.started = time.monotonic()
        self._outbox = outbox
        self._trace = ""

    @property
    def trace(self) -> str:
        """The call chain, for logs."""
        own = f"ctl:{self.method.name}#{self.ident}"
        return f"{self._trace}/{own}" if self._trace else own

    def apply(self, meta: dict[str, Any]) -> None:
        """Parse the call's metadata: trace, deadline_s, credit.

        Raises:
            InvalidParams: an invalid value.
        """
        trace = meta.get("trace", "")
        if type(trace) is not str or len(trace) > _MAX_TRACE_CHARS or not trace.isprintable():
            raise InvalidParams(
                f"meta.trace is printable, of at most {_MAX_TRACE_CHARS} characters"
            )
        self._trace = trace
        deadline_s = meta.get("deadline_s")
        if deadline_s is not None:
            if not framing.is_number(deadline_s) or not 0 < deadline_s <= framing.MAX_DEADLINE_S:
                raise InvalidParams(
                    f"meta.deadline_s is above 0 and at most {framing.MAX_DEADLINE_S:g}"
                )
            self.deadline_s = float(deadline_s)
        credit = meta.get("credit", framing.DEFAULT_CREDIT)
        if type(credit) is not int or not 1 <= credit <= framing.MAX_CREDIT:
            raise InvalidParams(f"meta.credit is from 1 to {framing.MAX_CREDIT}")
        self.credit = credit

    def progress(
        self, text: str, *, done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        """Report progress to the caller; never waits."""
        if self.is_open:
            state = {"text": text, "done": done, "total": total, "unit": unit}
            frame = framing.encode(framing.PROGRESS, self.ident, state)
            self._outbox.send_progress(self.ident, frame)

    def stop(self, reason: AitorrentError) -> None:
        """Cancel the handler; the caller gets `reason`."""
        if self.stop_reason is None and self.task is not None:
            self.stop_reason = reason
            self.task.cancel()


def error_map(error: AitorrentError) -> dict[str, Any]:
    """The error as sent: bounded, and with the problems of a configuration."""
    value = error.as_map()
    value["message"] = error.message[:_MAX_MESSAGE_CHARS]
    if isinstance(error, ConfigError):
        value["data"] = {**error.data, "kind": "config", "problems": list(error.problems)}
    return value


def encode_error(ident: int, error: AitorrentError) -> bytes:
    """An error frame; detail that cannot be encoded is omitted."""
    try:
        return framing.encode(framing.ERROR, ident, error_map(error))
    except (AitorrentError, TypeError, ValueError, OverflowError):
        bare = {"code": error.code, "message": error.message[:_MAX_MESSAGE_CHARS], "data": {}}
        return framing.encode(framing.ERROR, ident, bare)
