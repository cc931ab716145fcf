"""Records: what a node publishes in the DHT, signed, numbered and with an end.

Two kinds. A provider record is one of many under a key, one for each publisher: who offers the
thing that the key names. A value record is alone under its key, because the key contains its
publisher: nobody else can write there. A record with a higher number replaces an earlier one of its
publisher; a deletion is a record too, and stays until the record that it replaces would have ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, Final

from aitorrent_dht.core.contact import KEY_BYTES, id_of
from aitorrentd.api import ProtocolError, pack
from aitorrentd.api.fields import blob, flag, whole

SIGNATURE_DOMAIN: Final = "aitd/dht/1"
MAX_VALUE_BYTES: Final = 700
"A record travels in one datagram of 1,200 bytes, with the header and room for a few nodes."
MAX_TTL_S: Final = 24 * 3600.0
CLOCK_SKEW_S: Final = 600.0
"How wrong the clocks of publisher and keeper may be."
MAX_SEQ: Final = 2**53 - 1
SIGNATURE_BYTES: Final = 64
NAME_BYTES: Final = 32
_KEY_DOMAIN: Final = b"aitd/dht/key/1\0"


class Kind(IntEnum):
    """What a record is under its key."""

    PROVIDER = 0
    VALUE = 1


def provider_key(name: str) -> bytes:
    """The key under which anybody may say that it provides `name`."""
    return hashlib.sha256(_KEY_DOMAIN + b"provider\0" + name.encode()).digest()


def name_digest(name: str) -> bytes:
    """What a value record carries of the name that its publisher gave it."""
    return hashlib.sha256(_KEY_DOMAIN + b"name\0" + name.encode()).digest()


def value_key(publisher: bytes, name: bytes) -> bytes:
    """The key of a publisher's value; `name` is the digest of its name."""
    return hashlib.sha256(_KEY_DOMAIN + b"value\0" + publisher + name).digest()


@dataclass(frozen=True)
class DhtRecord:
    """A signed record. Valid by its fields only after `check`."""

    kind: Kind
    key: bytes
    "32 bytes; the first 20 say where in the DHT it is kept."
    publisher: bytes
    "The Ed25519 public key of its publisher."
    seq: int
    expires: int
    "Seconds since the epoch."
    value: bytes
    name: bytes = b""
    "In a value record, the digest of its name; else empty."
    is_deleted: bool = False
    signature: bytes = b""

    @cached_property
    def target(self) -> int:
        """The point in the id space near which it is kept."""
        return id_of(self.key)

    @cached_property
    def size_bytes(self) -> int:
        """How much it takes in a message."""
        return len(pack(self.as_map())) + 3

    @property
    def digest(self) -> bytes:
        """Eight bytes that tell it from every other record, also of the same publisher."""
        return self.signature[:8]

    def signed_part(self, network: bytes) -> bytes:
        """What the signature covers; `network` (32 bytes) keeps networks apart."""
        fields = [
            int(self.kind),
            self.key,
            self.seq,
            self.expires,
            self.value,
            self.name,
            self.is_deleted,
        ]
        return network + pack(fields)

    def as_map(self) -> dict[str, Any]:
        """The record as sent."""
        return {
            "t": int(self.kind),
            "k": self.key,
            "p": self.publisher,
            "s": self.seq,
            "e": self.expires,
            "v": self.value,
            "n": self.name,
            "d": self.is_deleted,
            "g": self.signature,
        }


Verifier = Callable[[DhtRecord], bool]
"Whether the publisher of a record signed it, for this network."


def read_record(fields: object) -> DhtRecord:
    """The record in a decoded map; its fields are of the right types and sizes, and no more.

    Raises:
        ProtocolError: they are not.
    """
    if not isinstance(fields, dict):
        raise ProtocolError("a record must be a map")
    return DhtRecord(
        kind=Kind(whole(fields, "t", 0, len(Kind) - 1)),
        key=blob(fields, "k", KEY_BYTES, KEY_BYTES),
        publisher=blob(fields, "p", KEY_BYTES, KEY_BYTES),
        seq=whole(fields, "s", 0, MAX_SEQ),
        expires=whole(fields, "e", 0, MAX_SEQ),
        value=blob(fields, "v", 0, MAX_VALUE_BYTES),
        name=blob(fields, "n", 0, NAME_BYTES),
        is_deleted=flag(fields, "d"),
        signature=blob(fields, "g", SIGNATURE_BYTES, SIGNATURE_BYTES),
    )


def check(record: DhtRecord, epoch_s: float) -> str:
    """Why this node must not keep or return `record` at `epoch_s`, but for its signature.

    The empty string if nothing is wrong.
    """
    if record.kind is Kind.VALUE:
        if len(record.name) != NAME_BYTES:
            return "a value has no name"
        if record.key != value_key(record.publisher, record.name):
            return "the key does not belong to the publisher"
    elif record.name:
        return "a provider has a name"
    if len(record.value) > MAX_VALUE_BYTES:
        return "the value is too large"
    if record.is_deleted and record.value:
        return "a deletion has a value"
    if record.expires <= epoch_s - CLOCK_SKEW_S:
        return "it has expired"
    if record.expires > epoch_s + MAX_TTL_S + CLOCK_SKEW_S:
        return "it expires too far in the future"
    return ""
