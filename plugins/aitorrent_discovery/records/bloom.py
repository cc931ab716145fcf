"""Bloom filters: which records a peer already has, in a few hundred bytes.

Bloom, "Space/time trade-offs in hash coding with allowable errors" (1970), with double hashing
after Kirsch and Mitzenmacher (2006). At 1 % false positives an entry costs 9.6 bits and 7 hashes.
Each filter has a salt of its own: what one takes for known by mistake, the next does not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Final

from aitorrentd.api import ProtocolError

FALSE_POSITIVES: Final = 0.01
HASHES: Final = round(-math.log2(FALSE_POSITIVES))
SALT_BYTES: Final = 8
MIN_BYTES: Final = 16
MAX_BYTES: Final = 4096
"Room for 3,400 entries at 1 %."
_LOW: Final = 2**64 - 1
MAX_FILL: Final = 0.6
"A filter sized for its entries is half full at most (optimal hashing); chance adds little."


def size_bytes(entries: int) -> int:
    """Bytes of a filter for so many entries, within the limits of the protocol."""
    bits = math.ceil(-max(1, entries) * math.log(FALSE_POSITIVES) / math.log(2) ** 2)
    return min(MAX_BYTES, max(MIN_BYTES, -(-bits // 8)))


class Bloom:
    """A set of keys with a chance of 1 % that an absent one seems present."""

    __slots__ = ("_bits", "salt")

    def __init__(self, salt: bytes, bits: bytearray) -> None:
        self.salt = salt
        self._bits = bits

    @classmethod
    def sized(cls, entries: int, salt: bytes) -> Bloom:
        """An empty filter for so many entries."""
        return cls(salt, bytearray(size_bytes(entries)))

    @classmethod
    def of(cls, keys: Iterable[bytes], salt: bytes) -> Bloom:
        """A filter that holds `keys`."""
        held = list(keys)
        bloom = cls.sized(len(held), salt)
        for key in held:
            bloom.add(key)
        return bloom

    @classmethod
    def received(cls, salt: bytes, bits: bytes) -> Bloom:
        """A peer's filter.

        Raises:
            ProtocolError: not of the protocol's size, or so full that it claims nearly everything.
        """
        if len(salt) != SALT_BYTES or not MIN_BYTES <= len(bits) <= MAX_BYTES:
            raise ProtocolError(f"a filter has {MIN_BYTES} to {MAX_BYTES} bytes")
        bloom = cls(salt, bytearray(bits))
        if bloom.fill > MAX_FILL:
            raise ProtocolError(f"a filter that is {bloom.fill:.0%} full; at most {MAX_FILL:.0%}")
        return bloom

    @property
    def fill(self) -> float:
        """The share of bits that are set."""
        return int.from_bytes(self._bits, "big").bit_count() / (8 * len(self._bits))

    @property
    def bits(self) -> bytes:
        """The bytes to send."""
        return bytes(self._bits)

    def add(self, key: bytes) -> None:
        """Put `key` in."""
        for place in self._places(key):
            self._bits[place >> 3] |= 0x80 >> (place & 7)

    def __contains__(self, key: bytes) -> bool:
        bits = self._bits
        return all(bits[place >> 3] & (0x80 >> (place & 7)) for place in self._places(key))

    def _places(self, key: bytes) -> Iterator[int]:
        digest = int.from_bytes(hashlib.blake2b(key, digest_size=16, key=self.salt).digest(), "big")
        place, step, count = digest >> 64, digest & _LOW | 1, 8 * len(self._bits)
        for _ in range(HASHES):
            yield place % count
            place += step


class Generations:
    """What one peer was sent or sent itself lately, in two filters that take turns.

    The older one is dropped after `turn_s`, or when the newer one is full, so the set forgets and
    never saturates.
    """

    __slots__ = ("_capacity", "_count", "_draw_salt", "_new", "_old", "_turn_s", "_turned")

    def __init__(self, capacity: int, turn_s: float, salt: bytes, now: float) -> None:
        self._capacity = capacity
        self._turn_s = turn_s
        self._new = Bloom.sized(capacity, salt)
        self._old = self._new
        self._draw_salt = salt
        self._count = 0
        self._turned = now

    def add(self, key: bytes, now: float) -> None:
        """Remember `key`."""
        self._turn(now)
        self._new.add(key)
        self._count += 1

    def has(self, key: bytes, now: float) -> bool:
        """Whether `key` was remembered lately; 1 % of others seem to be, until the next turn."""
        self._turn(now)
        return key in self._new or key in self._old

    def _turn(self, now: float) -> None:
        late_s = now - self._turned
        if late_s < self._turn_s and self._count < self._capacity:
            return
        self._draw_salt = hashlib.blake2b(self._draw_salt, digest_size=SALT_BYTES).digest()
        fresh = Bloom.sized(self._capacity, self._draw_salt)
        self._old = fresh if late_s >= 2 * self._turn_s else self._new
        self._new = fresh
        self._count = 0
        self._turned = now
