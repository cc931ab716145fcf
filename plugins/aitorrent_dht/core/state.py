"""What the parts of one DHT node share: identity, table, records, timers, messages to send."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from aitorrent_dht.core.contact import ID_BYTES, Contact, is_ip6, node_id
from aitorrent_dht.core.density import Density
from aitorrent_dht.core.lookup import ALPHA, PATHS
from aitorrent_dht.core.reachability import Mode, Reachability
from aitorrent_dht.core.record import Verifier
from aitorrent_dht.core.store import RecordStore
from aitorrent_dht.core.table import K, RoutingTable
from aitorrent_dht.core.timers import Timers
from aitorrent_dht.core.timing import RoundTrip
from aitorrent_dht.core.tokens import Tokens
from aitorrent_dht.wire.messages import Family, Reply, Request


@dataclass(frozen=True, slots=True)
class Tuning:
    """Numbers that tests and simulations may change; times in seconds."""

    k: int = K
    alpha: int = ALPHA
    paths: int = PATHS
    "Disjoint paths of lookups for records."
    refresh_s: float = 3600.0
    "A bucket through which no lookup went for so long is refreshed."
    check_s: float = 900.0
    "A node of the table that was silent for so long is pinged."
    tick_s: float = 30.0
    "Between two rounds of upkeep."
    ttl_s: float = 3 * 3600.0
    "How long this node's records last unless they are published again."
    republish_s: float = 3600.0


DEFAULT_TUNING: Final = Tuning()


class Outgoing(NamedTuple):
    """A message to send."""

    message: Request | Reply
    host: str
    port: int
    pad_bytes: int
    recipient: bytes = b""
    "The public key of the recipient, if the message may prove its sender to it alone."


@dataclass(slots=True)
class NodeState:
    """State of one node; times are of the caller's monotonic clock."""

    key: bytes
    "Its public key."
    random: Random
    "Unpredictable in production: transaction ids and secrets come from it."
    verify: Verifier
    "Whether the publisher of a record signed it."
    epoch_offset_s: float
    "Seconds since the epoch minus the monotonic clock."
    now: float
    tuning: Tuning = DEFAULT_TUNING
    families: Family = Family.IP4
    mode: Mode = "server"
    is_client: bool = field(init=False)
    "Whether this node keeps out of other nodes' tables."
    reachability: Reachability = field(init=False)
    id: int = field(init=False)
    table: RoutingTable = field(init=False)
    store: RecordStore = field(init=False)
    tokens: Tokens = field(init=False)
    timers: Timers = field(default_factory=Timers)
    round_trip: RoundTrip = field(default_factory=RoundTrip)
    "Over all nodes: what to expect of one that is not known."
    density: Density = field(default_factory=Density)
    outgoing: list[Outgoing] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _ip4: bool = field(init=False)
    _ip6: bool = field(init=False)

    def __post_init__(self) -> None:
        self.id = node_id(self.key)
        self.use(self.families)
        self.reachability = Reachability(self.mode, self.now)
        self.is_client = self.reachability.is_client(self.now)
        self.table = RoutingTable(self.id, self.tuning.k)
        self.store = RecordStore(self.id)
        self.tokens = Tokens(self.random.randbytes, self.now)

    def epoch_s(self, now: float) -> float:
        """The time of day at `now`."""
        return now + self.epoch_offset_s

    def network_size(self) -> float:
        """The estimated number of nodes in the network."""
        return self.density.size(self.table.network_size())

    def use(self, families: Family) -> None:
        """Set for which addresses this node has sockets."""
        self.families = families
        self._ip4, self._ip6 = Family.IP4 in families, Family.IP6 in families

    def can_use(self, contact: Contact) -> bool:
        """Whether this node has a socket for the contact's address."""
        has_socket = self._ip6 if is_ip6(contact.host) else self._ip4
        return has_socket and contact.key != self.key


def id_bytes(node: int) -> bytes:
    """An id as sent."""
    return node.to_bytes(ID_BYTES, "big")
