"""A hundred nodes in memory with virtual time: the production core without sockets.

Each node begins rounds of gossip, dials candidates and loses peers as the shell would make it; only
streams and connections are simulated. Seeded, so that a run repeats.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from aitorrent_discovery.gossip.core import Gossip
from aitorrent_discovery.gossip.messages import encode_items, read_hello, read_items
from aitorrent_discovery.peers.candidates import Candidates
from aitorrent_discovery.peers.standing import Standings
from aitorrentd.api import AitorrentError, PeerId, decode_frame
from aitorrentd.api.network.addresses import parse_address
from tests.support.clocks import FakeClock
from tests.support.transport.transport_nodes import Identity

ROUND_S = 30.0
LOOK_S = 10.0
OUTBOUND = 8


class SimNode:
    """One node; `links` says for each connected peer whether this node dialled it."""

    def __init__(self, universe: Universe, number: int) -> None:
        identity = Identity(f"node{number}")
        self.id = identity.peer_id
        self.host = f"{11 + number % 90}.{number // 90}.0.1"
        self.alive = True
        self.links: dict[PeerId, bool] = {}
        self.random = random.Random(number)
        self.standings = Standings(self.random.random)
        address = f"/ip4/{self.host}/tcp/8468"
        self.gossip = Gossip(
            identity, "sim", lambda: [address], self.standings, universe.clock, self.random
        )
        self.candidates = Candidates(self.gossip.book, self.standings)
        self.address = parse_address(address).of(self.id)


class Universe:
    """Nodes, connections, and what happens when."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.clock = FakeClock()
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.nodes: dict[PeerId, SimNode] = {}
        self._by_host: dict[str, SimNode] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.first = self.add()
        for _ in range(count - 1):
            self.add()

    def add(self) -> SimNode:
        """One more node, which knows only the first."""
        node = SimNode(self, len(self.nodes))
        self.nodes[node.id] = node
        self._by_host[node.host] = node
        if len(self.nodes) > 1:
            self.at(self.random.random() * 10, lambda: self._dial(node, self.first))
        self.at(self.random.random() * ROUND_S, lambda: self._round(node))
        self.at(self.random.random() * LOOK_S, lambda: self._look(node))
        return node

    def at(self, after_s: float, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.clock.now + after_s, next(self._order), action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.clock.now + seconds
        while self._events and self._events[0][0] <= until:
            self.clock.now, _, action = heapq.heappop(self._events)
            action()
        self.clock.now = until

    def kill(self, node: SimNode) -> None:
        """The node is gone, without a word."""
        node.alive = False
        for peer in list(node.links):
            other = self.nodes[peer]
            other.links.pop(node.id, None)
            other.standings.lost(node.id, self.clock.now)
        node.links.clear()

    def knowing(self, peer: PeerId) -> float:
        """The share of the other live nodes that have a record of `peer`."""
        others = [node for node in self.nodes.values() if node.alive and node.id != peer]
        return sum(node.gossip.book.get(peer) is not None for node in others) / len(others)

    # What the shell does

    def _round(self, node: SimNode) -> None:
        if not node.alive:
            return
        for peer in node.gossip.partners(node.links):
            self._exchange(node, self.nodes[peer])
        self.at(ROUND_S * (0.75 + node.random.random() / 2), lambda: self._round(node))

    def _look(self, node: SimNode) -> None:
        if not node.alive:
            return
        dialled = [self.nodes[peer].host for peer, out in node.links.items() if out]
        limit = min(4, OUTBOUND - len(dialled))
        for candidate in node.candidates.choose(node.links, dialled, self.clock.now, limit):
            other = self._by_host[candidate.addresses[0].host]
            self.at(2 * node.random.random(), partial(self._dial, node, other))
        self.at(LOOK_S * (0.5 + node.random.random()), lambda: self._look(node))

    def _dial(self, node: SimNode, other: SimNode) -> None:
        if not node.alive or other.id in node.links:
            return
        self.counts["dials"] += 1
        if not other.alive:
            self.counts["failed_dials"] += 1
            node.standings.not_connected(other.id, self.clock.now)
            return
        node.links[other.id] = True
        other.links[node.id] = False
        node.standings.connected(other.id, self.clock.time())
        node.candidates.dialled(other.id, [other.address])
        self._exchange(node, other)

    def _exchange(self, one: SimNode, other: SimNode) -> None:
        """The frames of an exchange, as bytes."""
        self.counts["exchanges"] += 1
        try:
            other.gossip.admit(one.id)
        except AitorrentError:
            self.counts["refused"] += 1
            one.standings.silent(other.id, self.clock.now)
            return
        asked = one.gossip.hello().encode()
        told = other.gossip.hello().encode()
        hello = read_hello(decode_frame(asked[4:]))
        for_one = encode_items(other.gossip.items(one.id, hello))
        one.gossip.take(other.id, other.host, read_items(decode_frame(for_one[4:])))
        hello = read_hello(decode_frame(told[4:]))
        for_other = encode_items(one.gossip.items(other.id, hello))
        other.gossip.take(one.id, one.host, read_items(decode_frame(for_other[4:])))
        one.standings.answered(other.id)
        self.counts["bytes"] += len(asked) + len(told) + len(for_one) + len(for_other)
