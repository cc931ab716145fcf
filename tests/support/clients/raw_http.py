"""HTTP as bytes on a socket, for what no client would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A whole answer, or what came of it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error of an OpenAI-shaped body."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found


def parsed(raw: bytes) -> Answer:
    """The answer in the bytes of a connection that was closed after it."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = dechunked(body)
    return Answer(int(first.split()[1]) if first else 0, headers, body)


def dechunked(raw: bytes) -> bytes:
    """The body in chunks (RFC 9112, section 7.1); of a cut one, what came."""
    found = b""
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        length = int(size, 16)
        found, raw = found + rest[:length], rest[length + 2 :]
    return found


@asynccontextmanager
async def connection(
    address: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to `host:port`, or to the Unix socket at a path."""
    if address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(address: str, raw: bytes, *, timeout_s: float = 10.0) -> Answer:
    """What a server sends for these bytes until it closes the connection."""
    async with connection(address) as (reader, writer), asyncio.timeout(timeout_s):
        writer.write(raw)
        return parsed(await reader.read())


def request(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    host: str = "127.0.0.1",
) -> bytes:
    """A request after which the connection closes."""
    sent = {"Host": host, "Connection": "close", **(headers or {})}
    if body or method == "POST":
        sent.setdefault("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body
