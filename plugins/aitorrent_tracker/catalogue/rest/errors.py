"""Errors of the REST API: a status, and JSON that says what to do."""

from __future__ import annotations

import json
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aitorrentd.api import AitorrentError
from aitorrentd.api.faces.asgi import Send

_STATUS: Final = {
    "invalid_params": 400,
    "protocol": 400,
    "denied": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "busy": 429,
    "timeout": 503,
    "unavailable": 503,
    "shutting_down": 503,
}
_TEXTS: Final = {
    404: "there is nothing here; the API is under /api/v1/torrents",
    405: "this method is not allowed here",
}


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    """What every error looks like."""
    return {"error": {"code": code, "message": message}}


def status_of(error: AitorrentError) -> int:
    """The status that an error of the program has in HTTP."""
    return _STATUS.get(error.code, 500)


def of_program(request: Request, error: Exception) -> Response:
    """The answer to an `AitorrentError`."""
    if not isinstance(error, AitorrentError):
        raise error
    status = status_of(error)
    headers = {"Retry-After": "10"} if status in (429, 503) else None
    return JSONResponse(error_body(error.code, error.message), status, headers)


def of_http(request: Request, error: Exception) -> Response:
    """The answer to an error of the router."""
    if not isinstance(error, HTTPException):
        raise error
    code = "not_found" if error.status_code == 404 else "invalid_params"
    text = _TEXTS.get(error.status_code, error.detail)
    return JSONResponse(error_body(code, text), error.status_code, error.headers)


async def json_reply(
    send: Send, status: int, code: str, message: str, *headers: tuple[bytes, bytes]
) -> None:
    """Answer with an error, outside of the application."""
    body = json.dumps(error_body(code, message)).encode()
    usual = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*usual, *headers]})
    await send({"type": "http.response.body", "body": body})
