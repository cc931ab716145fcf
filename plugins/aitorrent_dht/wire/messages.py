"""What nodes of the DHT ask each other and answer, and how much room that takes in a datagram."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Final

from aitorrent_dht.core.contact import Contact, is_ip6
from aitorrent_dht.core.record import DhtRecord

MAX_DATAGRAM_BYTES: Final = 1200
"Passes every path that IPv6 allows (RFC 8200, section 5), with room for tunnels."
PASSING_BYTES: Final = 548
"""The padding of a request that is repeated: with headers 576 bytes, which every network passes
(RFC 791), also one that drops larger packets without a word."""
MAX_NODES: Final = 20
MAX_RECORDS: Final = 8
"In one answer."
MAX_HAVE: Final = 64
HAVE_BYTES: Final = 8
TXID_BYTES: Final = 16

NODE4_BYTES: Final = 32 + 4 + 2
NODE6_BYTES: Final = 32 + 16 + 2
REPLY_BYTES: Final = 240
"""An upper bound of an answer without nodes and records; a test holds it. Every request is at least
this long, so that it gets an answer even when its token has become too old."""


class Query(IntEnum):
    """What is asked."""

    PING = 0
    FIND = 1
    "The nodes nearest to a point."
    GET = 2
    "The records under a key, and the nodes nearest to it."
    STORE = 3


class Family(IntFlag):
    """Which addresses the asking node can use."""

    IP4 = 1
    IP6 = 2


class Refusal(IntEnum):
    """Why a record was not kept."""

    NONE = 0
    TOKEN = 1
    "No valid token; the answer has one."
    INVALID = 2
    STALE = 3
    "The answer has the record that is kept."
    FULL = 4


@dataclass(slots=True)
class Request:
    """A question to one node."""

    query: Query
    txid: bytes
    sender: bytes
    "The public key of the asking node."
    to: bytes = b""
    "The id of the asked node; empty when only its address is known, which is for PING alone."
    token: bytes = b""
    is_client: bool = False
    "The asking node cannot be asked: keep it out of the table."
    want: Family = Family.IP4
    key: bytes = b""
    "FIND: 20 bytes of a point; GET: 32 bytes of a key."
    have: tuple[bytes, ...] = ()
    "GET: digests of records that the asking node has."
    record: DhtRecord | None = None
    "STORE."
    is_paired: bool = field(default=False, compare=False)
    "Whether it proves its sender to its recipient alone, and so is its answer to do."


@dataclass(slots=True)
class Reply:
    """An answer. Only a request that this node made, to that address, has one."""

    txid: bytes
    sender: bytes
    to: bytes
    "The id of the node that asked."
    token: bytes = b""
    is_client: bool = False
    invites: bool = False
    "The answering node would keep the asking one in its table, once it proved its address."
    is_cut: bool = False
    "Nodes or records were left out since the request had no valid token."
    has_more: bool = False
    "There are more records under the key."
    nodes: tuple[Contact, ...] = ()
    records: tuple[DhtRecord, ...] = ()
    refusal: Refusal = Refusal.NONE
    observed: tuple[str, int] | None = None
    "PING: the address from which the request came."


def node_bytes(contact: Contact) -> int:
    """How much a node takes in an answer."""
    return NODE6_BYTES if is_ip6(contact.host) else NODE4_BYTES
