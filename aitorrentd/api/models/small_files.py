"""Fetches small files that no swarm carries, such as config.json, and verifies their Git blob ids.

Not exported by `aitorrentd.api`: httpx takes a few megabytes. Import it where it is first used.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

import httpx

from aitorrentd.api.models.proxies import proxy_for
from aitorrentd.api.models.weights import SmallFile, WebSource
from aitorrentd.errors import (
    AitorrentError,
    Denied,
    NotFound,
    ProtocolError,
    TimedOut,
    TooLarge,
    Unavailable,
)

MAX_BYTES: Final = 64 * 2**20
"The largest content that is fetched."
TIMEOUT_S: Final = 30.0
"Without a byte."


async def fetch_small(file: SmallFile) -> bytes:
    """The content, from the first source that has it.

    Raises:
        NotFound, Denied, Unavailable, TimedOut: as the last source answered. ProtocolError: what it
        sent is not this file. TooLarge: over 64 MiB.
    """
    problem: AitorrentError = NotFound(f"no source is known for {file.name}")
    if file.size > MAX_BYTES:
        raise TooLarge(f"{file.name} has {file.size} bytes; at most {MAX_BYTES} are fetched whole")
    for source in file.sources:
        try:
            content = await _get(source, file.name)
        except AitorrentError as e:
            problem = e
            continue
        if git_sha1(content) == file.git_sha1:
            return content
        problem = ProtocolError(f"{_host(source)} sent another {file.name} than it announced")
    raise problem


def git_sha1(content: bytes) -> str:
    """The id that Git gives a blob of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


async def _get(source: WebSource, name: str) -> bytes:
    content = bytearray()
    try:
        async with (
            httpx.AsyncClient(
                proxy=proxy_for(source.url, os.environ),
                trust_env=False,
                follow_redirects=True,
                timeout=TIMEOUT_S,
            ) as client,
            client.stream("GET", source.url, headers=dict(source.headers)) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise _refusal(answer.status_code, source, name)
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    raise TooLarge(f"{_host(source)} sends more than {MAX_BYTES} bytes as {name}")
    except httpx.TimeoutException:
        raise TimedOut(f"{_host(source)} sent nothing of {name} for {TIMEOUT_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as e:
        reason = str(e) or type(e).__name__
        raise Unavailable(f"cannot fetch {name} from {_host(source)}: {reason}") from None
    return bytes(content)


def _refusal(status: int, source: WebSource, name: str) -> AitorrentError:
    text = f"{_host(source)} answered {status} to a request for {name}"
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return Denied(f"{text}; the model may be gated or private")
    return NotFound(text) if status == httpx.codes.NOT_FOUND else Unavailable(text)


def _host(source: WebSource) -> str:
    """Without path and query, which may hold a signature."""
    try:
        return httpx.URL(source.url).host or "a source"
    except httpx.InvalidURL:
        return "a source"
