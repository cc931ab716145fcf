"""Changes of a swarm as trackers exchange them through Redis; no I/O.

`tracker:peers:{info_hash}` is a hash from compact addresses (BEP 23, BEP 7) to values: whether the
peer is a seed, when it announced itself, its id. `tracker:completed` counts downloads. A script
changes both and publishes the changes, in one step.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final, NamedTuple

from aitorrent_tracker.swarms.storage import HASH_BYTES

CHANNEL: Final = b"tracker:changes"
COMPLETED_KEY: Final = b"tracker:completed"
PEERS_PREFIX: Final = b"tracker:peers:"
ORIGIN_BYTES: Final = 8
ENTRY_BYTES: Final = (6, 18)
_VALUE: Final = struct.Struct(">BI20s")
_COUNT: Final = struct.Struct(">I")

# KEYS: peers, completed. ARGV: seconds to live, limit of counters, least count, message; then for
# each change its kind, entry and value. The newer of two values wins, whoever comes last.
SCRIPT: Final = b"""
local peers, completed = KEYS[1], KEYS[2]
local ttl, room, least, message = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local hash = string.sub(message, 9, 28)
local count = tonumber(redis.call('HGET', completed, hash) or 0)
local before = count
if count < least then count = least end
for at = 5, #ARGV, 3 do
  local kind, entry, value = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
  local old = redis.call('HGET', peers, entry)
  local is_newer = true
  if old then
    is_newer = struct.unpack('>I4', old, 2) <= struct.unpack('>I4', value, 2)
  end
  if kind % 4 >= 2 and not (old and string.byte(old, 1) == 1) then count = count + 1 end
  if is_newer and kind % 8 >= 4 then
    redis.call('HDEL', peers, entry)
  elseif is_newer then
    redis.call('HSET', peers, entry, value)
  end
end
if redis.call('EXISTS', peers) == 1 then redis.call('EXPIRE', peers, ttl) end
if count > before and (before > 0 or redis.call('HLEN', completed) < room) then
  redis.call('HSET', completed, hash, count)
end
if #message > 28 then
  redis.call('PUBLISH', 'tracker:changes', message .. struct.pack('>I4', count))
end
return count
"""


class Kind(IntFlag):
    """What happened to a peer."""

    SEEN = 1
    COMPLETED = 2
    GONE = 4


class Value(NamedTuple):
    """A peer as Redis keeps it."""

    is_seed: bool
    seen: int
    "Unix time by the clock of Redis, in seconds."
    peer_id: bytes

    def packed(self) -> bytes:
        """25 bytes."""
        return _VALUE.pack(self.is_seed, min(max(self.seen, 0), 2**32 - 1), self.peer_id)


class Change(NamedTuple):
    """What happened to one peer of a swarm."""

    kind: Kind
    value: Value


@dataclass(slots=True)
class Batch:
    """Changes of one swarm, by compact address."""

    info_hash: bytes
    changes: dict[bytes, Change] = field(default_factory=dict)
    least_completed: int = 0
    "Downloads that are known to have been completed before these changes."

    @property
    def key(self) -> bytes:
        """Where Redis keeps the peers."""
        return peers_key(self.info_hash)

    def arguments(self, origin: bytes, ttl_s: int, max_counters: int) -> list[bytes | int]:
        """`ARGV` of the script."""
        words: list[bytes | int] = [ttl_s, max_counters, self.least_completed, b""]
        message = [origin, self.info_hash]
        for entry, (kind, value) in self.changes.items():
            packed = value.packed()
            words += [int(kind), entry, packed]
            message += [bytes((kind, len(entry))), entry, packed]
        words[3] = b"".join(message)
        return words


def peers_key(info_hash: bytes) -> bytes:
    """Where Redis keeps the peers of a swarm."""
    return PEERS_PREFIX + info_hash.hex().encode()


def hash_of(key: bytes) -> bytes:
    """The info-hash in a key of peers; empty if it is none."""
    try:
        info_hash = bytes.fromhex(key.removeprefix(PEERS_PREFIX).decode("ascii"))
    except ValueError:
        return b""
    return info_hash if len(info_hash) == HASH_BYTES else b""


def read_value(raw: bytes) -> Value | None:
    """The peer in these bytes; None if they are no value."""
    if len(raw) != _VALUE.size:
        return None
    is_seed, seen, peer_id = _VALUE.unpack(raw)
    return Value(bool(is_seed), seen, peer_id)


class Message(NamedTuple):
    """What one tracker published about a swarm."""

    origin: bytes
    info_hash: bytes
    completed: int
    changes: list[tuple[bytes, Change]]


def read_message(raw: bytes) -> Message | None:
    """A published message; None if it is malformed."""
    head, end = ORIGIN_BYTES + HASH_BYTES, len(raw) - _COUNT.size
    if end < head:
        return None
    changes = list(_changes(raw[head:end]))
    if any(change is None for change in changes):
        return None
    (completed,) = _COUNT.unpack_from(raw, end)
    whole = [change for change in changes if change is not None]
    return Message(raw[:ORIGIN_BYTES], raw[ORIGIN_BYTES:head], completed, whole)


def _changes(raw: bytes) -> Iterator[tuple[bytes, Change] | None]:
    at = 0
    while at < len(raw):
        size = raw[at + 1] if at + 1 < len(raw) else 0
        entry = raw[at + 2 : at + 2 + size]
        value = read_value(raw[at + 2 + size : at + 2 + size + _VALUE.size])
        if size not in ENTRY_BYTES or value is None:
            yield None
            return
        yield entry, Change(Kind(raw[at] & 7), value)
        at += 2 + size + _VALUE.size
