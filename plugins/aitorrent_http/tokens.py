"""Tokens of HTTP clients: 256 random bits each, of which only SHA-256 is stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aitorrentd.api import Conflict, NotFound, PluginContext
from aitorrentd.api.faces.routes import GRANTS

PREFIX: Final = "ait_"
"Of every token. Other credentials are placeholders, which clients send to servers without keys."
MAX_TOKENS: Final = 1000
MIGRATIONS: Final = {
    1: "CREATE TABLE tokens (name TEXT PRIMARY KEY, hash TEXT NOT NULL, role TEXT NOT NULL,"
    " created REAL NOT NULL, expires REAL) WITHOUT ROWID"
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token, without its secret."""

    name: str
    hash: str
    "SHA-256, in hexadecimal."
    role: str
    "A key of GRANTS."
    created: float
    "Seconds since the epoch."
    expires: float | None
    "Likewise; None = never."


class Tokens:
    """The tokens of a node; the database is open only while it is read or written."""

    def __init__(self, ctx: PluginContext) -> None:
        self._ctx = ctx
        self._wall: Callable[[], float] = ctx.clock.time
        self._known: dict[str, Token] = {}

    def __len__(self) -> int:
        return len(self._known)

    def all(self) -> list[Token]:
        """By name."""
        return sorted(self._known.values(), key=lambda token: token.name)

    async def load(self) -> None:
        """Read the tokens of earlier runs."""
        async with (
            self._ctx.db(MIGRATIONS) as db,
            db.execute("SELECT name, hash, role, created, expires FROM tokens") as rows,
        ):
            found = [Token(*row) async for row in rows]
        self._known = {token.name: token for token in found if token.role in GRANTS}

    async def create(self, name: str, role: str, lifetime_s: float | None) -> tuple[Token, str]:
        """A new token and its secret, which is not kept.

        Raises:
            Conflict: there is one of that name, or too many.
        """
        if name in self._known:
            raise Conflict(f"there is a token named {name} already; choose another name")
        if len(self._known) >= MAX_TOKENS:
            raise Conflict(f"there are {MAX_TOKENS} tokens already; revoke one")
        secret, now = PREFIX + secrets.token_urlsafe(32), self._wall()
        expires = None if lifetime_s is None else now + lifetime_s
        token = self._known[name] = Token(name, _hash(secret), role, now, expires)
        try:
            async with self._ctx.db(MIGRATIONS) as db:
                await db.execute(
                    "INSERT INTO tokens VALUES (?, ?, ?, ?, ?)",
                    (name, token.hash, role, now, expires),
                )
                await db.commit()
        except BaseException:
            del self._known[name]
            raise
        return token, secret

    async def revoke(self, name: str) -> None:
        """Make a token invalid at once.

        Raises:
            NotFound: there is none of that name.
        """
        if self._known.pop(name, None) is None:
            raise NotFound(f"no token named {name}; see aitorrentctl token list")
        async with self._ctx.db(MIGRATIONS) as db:
            await db.execute("DELETE FROM tokens WHERE name = ?", (name,))
            await db.commit()

    def find(self, secret: str) -> Token | None:
        """The token of a secret; None if it is unknown, revoked or expired."""
        given, found = _hash(secret), None
        for token in self._known.values():  # all of them, so that the time tells nothing
            if hmac.compare_digest(token.hash, given):
                found = token
        if found is None or (found.expires is not None and found.expires <= self._wall()):
            return None
        return found


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
