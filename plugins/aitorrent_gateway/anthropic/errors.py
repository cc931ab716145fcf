"""Errors as Anthropic's clients read them. No I/O.

Agents repair their conversation when they read these exact texts: Claude Code shortens it on
`prompt is too long: N tokens > M maximum`, and asks for fewer tokens on ``input length and
`max_tokens` exceed context limit: I + M > L``.
"""

from __future__ import annotations

import json
from typing import Final

from aitorrent_gateway.anthropic.requests import NAMES, NO_THREADS
from aitorrent_gateway.core.errors import prompt_too_long, translated
from aitorrentd.api import AitorrentError
from aitorrentd.api.faces.errors import HttpFault

_GIVE_UP: Final = (b"x-should-retry", b"false")
# Claude Code repeats a request for minutes if the error is an overloaded_error, whatever this
# header says.
_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


def error_body(fault: HttpFault, ident: str) -> bytes:
    """The JSON of an error; `ident` is that of the request."""
    kind = _KINDS.get(fault.status, "invalid_request_error" if fault.status < 500 else "api_error")
    if fault.status == 503 and _GIVE_UP not in fault.headers:
        kind = "overloaded_error"
    error: dict[str, object] = {"type": kind, "message": fault.message}
    if fault.code == NO_THREADS:
        error["details"] = {"error_code": NO_THREADS}
    return json.dumps({"type": "error", "error": error, "request_id": ident}).encode()


def in_words(error: AitorrentError) -> AitorrentError:
    """The same error, in the words on which clients act."""
    error = translated(error, NAMES)
    too_long = prompt_too_long(error)
    if too_long is None:
        param = error.data.get("param")  # the body of an error has no place of its own for it
        if param in NAMES.values() and str(param) not in error.message:
            error.message = f"{param}: {error.message}"
        return error
    prompt, context = too_long
    wanted = error.data.get("max_tokens")
    if prompt < context and type(wanted) is int:
        error.message = (
            f"input length and `max_tokens` exceed context limit: {prompt} + {wanted} > {context}"
        )
    else:
        most = min(context, prompt - 1)  # a prompt that fills the context leaves no room either
        error.message = f"prompt is too long: {prompt} tokens > {most} maximum"
    return error
