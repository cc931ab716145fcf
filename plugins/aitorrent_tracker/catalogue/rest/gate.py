"""What every request to the catalogue passes: client, rate, key, deadline, headers.

Announces and scrapes on a connection that was handed over are answered here, too.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import Final

from aitorrent_tracker.answering.sources import packed
from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.catalogue.rest.errors import json_reply
from aitorrent_tracker.catalogue.service import Catalogue
from aitorrent_tracker.wire.http_requests import Request, is_for_tracker
from aitorrent_tracker.wire.refusals import Refused
from aitorrentd.api import AitorrentError, TimedOut
from aitorrentd.api.faces.asgi import App, Message, Receive, Send

ANSWER_S: Final = 30.0
"For an answer, from the end of the request's headers."
KEY: Final = "aitorrent.key"
"In the state of a request's scope: the announce key that opened a private tracker."
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
        b" object-src 'none'",
    ),
)


class Gate:
    """An ASGI application in front of the catalogue's."""

    def __init__(
        self, inner: App, tracker: Tracker, catalogue: Catalogue, clock: Callable[[], float]
    ) -> None:
        self._inner = inner
        self._tracker = tracker
        self._catalogue = catalogue
        self._clock = clock

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        host = packed(scope["client"][0])
        path: bytes = scope["raw_path"]
        forwarded = tuple(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        if scope["method"] in ("GET", "HEAD") and is_for_tracker(path):
            await self._answer_client(scope, host, forwarded, send)
            return
        try:
            source = self._tracker.proxies.client(host, forwarded)
            is_allowed = self._tracker.rates.take(source, self._clock())
        except Refused as e:
            await json_reply(send, 400, "invalid_params", e.text)
            return
        if not is_allowed:
            self._tracker.counts["refused_rate"] += 1
            text = "too many requests from your network; try again in a minute"
            await json_reply(send, 429, "busy", text, (b"retry-after", b"60"))
            return
        if not self._is_opened(scope):
            text = "this tracker is private: give your announce key as the password"
            challenge = (b"www-authenticate", b'Basic realm="tracker", charset="UTF-8"')
            await json_reply(send, 401, "denied", text, challenge)
            return
        await self._within_deadline(scope, receive, send)

    async def _within_deadline(self, scope: Message, receive: Receive, send: Send) -> None:
        has_started = False

        async def sending(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            async with asyncio.timeout(ANSWER_S):
                await self._inner(scope, receive, sending)
        except TimeoutError:
            if has_started:
                raise
            error: AitorrentError = TimedOut("the catalogue took too long; try again")
            await json_reply(send, 503, error.code, error.message, (b"connection", b"close"))

    async def _answer_client(
        self, scope: Message, host: bytes, forwarded: tuple[bytes, ...], send: Send
    ) -> None:
        is_head = scope["method"] == "HEAD"
        request = Request(scope["raw_path"], scope["query_string"], is_head, True, forwarded)
        status, body = self._tracker.http(request, host, self._clock())
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        number = int(status[:3])
        await send({"type": "http.response.start", "status": number, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if is_head else body})

    def _is_opened(self, scope: Message) -> bool:
        """Whether the tracker is for everyone, or the request has a key or the admin's token."""
        access = self._tracker.access
        if not access.is_private:
            return True
        for secret in _secrets(scope["headers"]):
            if access.is_key(secret):
                scope.setdefault("state", {})[KEY] = secret
                return True
            if self._catalogue.is_admin(secret):
                return True
        return False


def _secrets(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """What the Authorization header has: a bearer token (RFC 6750), or a password (RFC 7617)."""
    found = []
    for name, value in headers:
        scheme, _, rest = value.partition(b" ")
        if name != b"authorization":
            continue
        try:
            if scheme.lower() == b"bearer":
                found.append(rest.strip().decode("ascii"))
            elif scheme.lower() == b"basic":
                pair = b64decode(rest.strip(), validate=True).decode()
                found.append(pair.partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            continue
    return found
