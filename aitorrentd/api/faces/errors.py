"""Errors as HTTP answers, in the shape that OpenAI's clients read:
`{"error": {"message", "type", "param", "code"}}`, always with the four keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from aitorrentd.errors import AitorrentError, Busy, Denied, Unavailable

JSON: Final = (b"content-type", b"application/json")
"The header of a JSON body."
Headers = list[tuple[bytes, bytes]]
"Names in lower case, and values."


@dataclass(frozen=True, slots=True)
class HttpFault:
    """An error as HTTP answers it."""

    status: int
    kind: str
    "OpenAI's `type`."
    code: str
    message: str
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """The answer's body."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")


_RETRY: Final = ((b"retry-after", b"1"),)
_GIVE_UP: Final = ((b"x-should-retry", b"false"),)
# By the error's code: status, type, code.
_FAULTS: Final = {
    "invalid_params": (400, "invalid_request_error", "invalid_value"),
    "method_not_found": (404, "invalid_request_error", "not_found"),
    "not_found": (404, "invalid_request_error", "not_found"),
    "denied": (403, "permission_error", "denied"),
    "conflict": (409, "invalid_request_error", "conflict"),
    "too_large": (413, "invalid_request_error", "request_too_large"),
    "busy": (429, "rate_limit_error", "busy"),
    "unavailable": (503, "server_error", "unavailable"),
    "shutting_down": (503, "server_error", "unavailable"),
    "timeout": (504, "server_error", "timeout"),
    "protocol": (502, "server_error", "internal"),
}


def fault_of(error: AitorrentError) -> HttpFault:
    """How an error is answered. Its data may set `http_code`, `param` and, if it passes by itself,
    `retry_after_s`."""
    status, kind, code = _FAULTS.get(error.code, (500, "server_error", "internal"))
    headers: tuple[tuple[bytes, bytes], ...] = ()
    after_s = error.data.get("retry_after_s")
    if isinstance(error, Busy | Unavailable) and type(after_s) is int:
        headers = ((b"retry-after", b"%d" % after_s),)
    elif isinstance(error, Busy) or error.code == "shutting_down":
        headers = _RETRY
    elif isinstance(error, Unavailable):
        # Clients repeat a 503 at once; a missing model or stage does not return that soon.
        headers = _GIVE_UP
    elif isinstance(error, Denied) and error.data.get("unknown"):
        status, kind, headers = 401, "authentication_error", ((b"www-authenticate", b"Bearer"),)
    param = error.data.get("param")
    return HttpFault(
        status,
        kind,
        str(error.data.get("http_code") or code),
        error.message,
        param if isinstance(param, str) and param else None,
        headers,
    )
