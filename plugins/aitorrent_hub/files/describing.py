"""Asks the Hub about a file, with the token of whoever asks, and remembers what is public.

A file may be shared with peers, and described without the Hub, only if anybody may read it: a
request without a token was answered, or the Hub calls the repository neither private nor gated.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from typing import Final

from aitorrent_hub.files.memory import Memory
from aitorrent_hub.upstream.asking import Hub
from aitorrent_hub.upstream.described import Described, Place, described, target_of
from aitorrent_hub.upstream.headers import Pairs, token_of, without_token
from aitorrentd.api import AitorrentError, TimedOut, Unavailable

FRESH_S: Final = 600.0
"How long a repository counts as public without asking again."
TOLD_S: Final = 30.0
"How long after a HEAD a GET gets the same file."
_MAX_TOLD: Final = 4096
HEAD_S: Final = 8.0
"For an answer about a file; clients wait 10 s."
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_ERRORS: Final = ("x-error-code", "x-error-message", "x-repo-commit", "retry-after")


class Refused(Exception):
    """The Hub refuses, with a status and headers that its clients understand."""

    def __init__(self, status: int, headers: Pairs) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers


class Describing:
    """Descriptions of files, from the Hub or from memory."""

    def __init__(self, hub: Hub, memory: Memory, *, wall: Callable[[], float] = time.time) -> None:
        self._hub = hub
        self._memory = memory
        self._wall = wall
        self._told: dict[tuple[Place, bytes], tuple[float, Described, bool]] = {}
        "What HEAD was answered, by file and digest of the token."

    async def describe(
        self, place: Place, headers: Pairs, *, is_head: bool = False
    ) -> tuple[Described, bool]:
        """The file, and whether it is public. `headers` are those of the client, with its token.

        A GET gets the file that the HEAD before it described, although a branch may have moved.

        Raises:
            Refused: as the Hub says. Unavailable, TimedOut: it cannot be asked, and the file is not
            remembered.
        """
        key = (place, hashlib.sha256(token_of(headers).encode()).digest())
        told = self._told.get(key)
        if told is not None and not is_head and self._wall() - told[0] < TOLD_S:
            return told[1:]
        found = await self._describe(place, headers)
        if is_head:
            self._told[key] = (self._wall(), *found)
            if len(self._told) > _MAX_TOLD:
                del self._told[next(iter(self._told))]
        return found

    async def _describe(self, place: Place, headers: Pairs) -> tuple[Described, bool]:
        seen_at = await self._memory.visible_at(place.repo)
        is_fresh = seen_at is not None and self._wall() - seen_at < FRESH_S
        if is_fresh and _COMMIT.fullmatch(place.revision):
            known = await self._remembered(place)
            if known is not None:
                return known, True
        try:
            async with asyncio.timeout(HEAD_S):
                file, is_public = await self._ask(place, headers, is_public=is_fresh)
        except (Unavailable, TimedOut, TimeoutError) as e:
            known = await self._remembered(place) if seen_at is not None else None
            if known is not None:
                return known, True
            if isinstance(e, AitorrentError):
                raise
            raise TimedOut(f"the Hub did not answer within {HEAD_S:g} s") from None
        except Refused as e:
            await self._refused(place, e, was_public=seen_at is not None)
            if e.status == 429 and seen_at is not None:
                known = await self._remembered(place)
                if known is not None:
                    return known, True
            raise
        if is_public:
            await self._memory.keep_visible(place.repo)
            await self._memory.keep_file(place, file)
        elif seen_at is not None:
            await self._memory.forget(place.repo)
        return file, is_public

    async def _remembered(self, place: Place) -> Described | None:
        commit = await self._memory.missing(place)
        if commit:
            told = [("X-Error-Code", "EntryNotFound"), ("X-Error-Message", "Entry not found")]
            raise Refused(404, [*told, ("X-Repo-Commit", commit)])
        return await self._memory.file(place)

    async def _ask(
        self, place: Place, headers: Pairs, *, is_public: bool
    ) -> tuple[Described, bool]:
        status, told, chain = await self._hub.head(target_of(place), headers)
        if status == 408 or status >= 500:
            raise Unavailable(f"the Hub answers with status {status}")
        if status >= 400:
            kept = [(name, value) for name, value in told if name.lower() in _ERRORS]
            raise Refused(status, kept)
        file = described(chain)
        if file is None:
            raise Unavailable("what answers is not a Hub: X-Repo-Commit or ETag is missing")
        if token_of(headers) and not is_public:
            status, *_ = await self._hub.head(target_of(place), without_token(headers))
            return file, status < 400
        return file, True

    async def _refused(self, place: Place, refused: Refused, *, was_public: bool) -> None:
        told = {name.lower(): value for name, value in refused.headers}
        code, commit = told.get("x-error-code"), told.get("x-repo-commit", "")
        if code == "EntryNotFound":
            if was_public and _COMMIT.fullmatch(commit):
                await self._memory.keep_missing(place, commit)
        elif was_public and (refused.status in (401, 403) or code == "RepoNotFound"):
            await self._memory.forget(place.repo)
