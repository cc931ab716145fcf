"""One node of the DHT, without I/O: messages in, messages out, calls that are due.

node = DhtNode(...)
node.start(now)
node.receive(message, host, port, size_bytes, now)   # a datagram's message, verified
node.run(now)                                        # at `node.due()` at the latest
for outgoing in node.take_outgoing(): ...
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from aitorrent_dht.core.contact import Contact
from aitorrent_dht.core.finding import Finding
from aitorrent_dht.core.publishing import Publishing, Sign
from aitorrent_dht.core.reachability import Mode
from aitorrent_dht.core.record import Verifier
from aitorrent_dht.core.rpc import Rpc
from aitorrent_dht.core.serving import Serving
from aitorrent_dht.core.state import DEFAULT_TUNING, NodeState, Outgoing, Tuning
from aitorrent_dht.core.upkeep import Upkeep
from aitorrent_dht.wire.messages import Family, Reply, Request


class DhtNode:
    """A node with public key `key`; times are of the caller's monotonic clock.

    `random` must be unpredictable in production; `sign` and `verify` are for records.
    """

    def __init__(
        self,
        key: bytes,
        *,
        random: Random,
        sign: Sign,
        verify: Verifier,
        now: float,
        epoch_s: float,
        tuning: Tuning = DEFAULT_TUNING,
        families: Family = Family.IP4,
        mode: Mode = "server",
    ) -> None:
        self.state = NodeState(key, random, verify, epoch_s - now, now, tuning, families, mode)
        self.rpc = Rpc(self.state)
        self.finding = Finding(self.state, self.rpc)
        self.publishing = Publishing(self.state, self.finding, sign)
        self.upkeep = Upkeep(self.state, self.rpc, self.finding, self.publishing)
        self._serving = Serving(self.state, self.rpc)

    @property
    def id(self) -> int:
        """Its id in the DHT."""
        return self.state.id

    def start(self, now: float) -> None:
        """Begin the standing work."""
        self.upkeep.start(now)

    def add_places(self, places: Iterable[tuple[str, int]], now: float) -> None:
        """Learn addresses at which nodes of the DHT may be, and try them."""
        self.upkeep.add_places(places, now)

    def expects(self, reply: Reply, host: str, port: int) -> bool:
        """Whether a reply belongs to a request of this node; nothing in it is proven."""
        return self.rpc.expects(reply, host, port)

    def receive(
        self, message: Request | Reply, host: str, port: int, size_bytes: int, now: float
    ) -> None:
        """Take a message whose sender is proven; a reply must be one that is expected."""
        if isinstance(message, Request):
            self._serving.receive(message, host, port, size_bytes, now)
        else:
            self.rpc.receive(message, host, port, now)

    def due(self) -> float | None:
        """When to call `run` at the latest."""
        return self.state.timers.due()

    def run(self, now: float) -> None:
        """Do what is due."""
        self.state.timers.run(now)

    def take_outgoing(self) -> list[Outgoing]:
        """The messages to send, each once."""
        outgoing = self.state.outgoing
        if outgoing:
            self.state.outgoing = []
        return outgoing

    def contacts(self) -> list[Contact]:
        """The verified nodes of its table."""
        return [entry.contact for entry in self.state.table]
