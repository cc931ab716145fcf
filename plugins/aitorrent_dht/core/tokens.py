"""Tokens: proof that a node receives at the address from which it sends.

A token is given with each answer and shown with later requests; it holds for one key at one address
and for 10 to 20 minutes. Without one a node gets no answer larger than its request, and may store
nothing (BEP 5, "announce_peer"; RFC 9000, section 8.1). A signed request that shows a valid token
also answers a challenge: its sender has the key, and is at the address now.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

TOKEN_BYTES: Final = 8
ROTATE_S: Final = 600.0
_SECRET_BYTES: Final = 32


class Tokens:
    """Makes and checks tokens. `randbytes` comes from a source that nobody can predict."""

    def __init__(self, randbytes: Callable[[int], bytes], now: float) -> None:
        self._randbytes = randbytes
        self._secret = randbytes(_SECRET_BYTES)
        self._last = randbytes(_SECRET_BYTES)
        self._rotated_at = now

    def give(self, key: bytes, host: str, port: int, now: float) -> bytes:
        """The token of the node with public key `key` at this address."""
        self._rotate(now)
        return _token(self._secret, key, host, port)

    def accepts(self, token: bytes, key: bytes, host: str, port: int, now: float) -> bool:
        """Whether `token` was given to this key at this address, and recently."""
        if len(token) != TOKEN_BYTES:
            return False
        self._rotate(now)
        return any(
            hmac.compare_digest(token, _token(secret, key, host, port))
            for secret in (self._secret, self._last)
        )

    def _rotate(self, now: float) -> None:
        age_s = now - self._rotated_at
        if age_s < ROTATE_S:
            return
        self._last = self._secret if age_s < 2 * ROTATE_S else self._randbytes(_SECRET_BYTES)
        self._secret = self._randbytes(_SECRET_BYTES)
        self._rotated_at = now


def _token(secret: bytes, key: bytes, host: str, port: int) -> bytes:
    place = b"%s %d" % (host.encode(), port)
    return hashlib.blake2b(key + place, key=secret, digest_size=TOKEN_BYTES).digest()
