"""A universe of DHT nodes: the production core on an in-memory network with virtual time.

Everything follows from the seed. Keys and signatures are cheap stand-ins (a hash that only the
universe makes), messages travel as objects; all else is what runs in a daemon. Nodes may die, come,
lie, or be cut off from one another.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from itertools import count
from random import Random

from aitorrent_dht.core.contact import contact_of, node_id
from aitorrent_dht.core.finding import Found, Stored
from aitorrent_dht.core.node import DhtNode
from aitorrent_dht.core.record import DhtRecord, Kind, provider_key
from aitorrent_dht.core.state import Outgoing, Tuning
from aitorrent_dht.wire.messages import Query, Reply, Request

EPOCH_S = 1_800_000_000.0
REQUEST_BYTES = 280
"A request without padding."
TUNING = Tuning(tick_s=120.0, check_s=3600.0)
LIES = ("silence", "nodes", "records")


def cheap_sign(record: DhtRecord) -> bytes:
    """A signature that liars do not make."""
    return hashlib.blake2b(record.signed_part(record.publisher), key=b"universe").digest()


def cheap_verify(record: DhtRecord) -> bool:
    return record.signature == cheap_sign(record)


@dataclass
class SimNode:
    """One node, its address, and how it behaves."""

    node: DhtNode
    host: str
    port: int
    lie: str = ""
    side: int = 0
    "Nodes of different sides do not hear each other."
    alive: bool = True
    wakes_at: float | None = None


@dataclass
class Result:
    """What searches came to."""

    asked: int = 0
    found: int = 0
    hops: Counter[int] = field(default_factory=Counter)
    sent: list[int] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.found / max(1, self.asked)

    def text(self) -> str:
        """One line for people."""
        took, sent = sorted(self.took_s), sorted(self.sent)
        mid, high = len(took) // 2, int(len(took) * 0.95)
        hops = ", ".join(f"{n} hops: {c}" for n, c in sorted(self.hops.items()))
        return (
            f"{self.found} of {self.asked} found; {took[mid] * 1000:.0f} ms median,"
            f" {took[high] * 1000:.0f} ms p95; {sent[mid]} requests median; {hops}"
        )


class Universe:
    """Nodes, the network between them, and time."""

    def __init__(
        self,
        seed: int = 1,
        *,
        tuning: Tuning = TUNING,
        loss: float = 0.0,
        latency_s: tuple[float, float] = (0.005, 0.06),
    ) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.nodes: list[SimNode] = []
        self.messages = 0
        self._tuning = tuning
        self._loss = loss
        self._latency_s = latency_s
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._at: dict[tuple[str, int], SimNode] = {}

    # Nodes

    def host(self) -> str:
        """A global address in a /24 that hardly anybody else is in."""
        r = self.random
        return f"{r.randrange(11, 100)}.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}"

    def add(
        self,
        *,
        lie: str = "",
        key: bytes | None = None,
        host: str | None = None,
        known: Sequence[SimNode] | None = None,
        tuning: Tuning | None = None,
    ) -> SimNode:
        """A node that joins now, through `known` or three random nodes."""
        key = key or self.random.randbytes(32)
        node = DhtNode(
            key,
            random=Random(self.random.getrandbits(64)),
            sign=cheap_sign,
            verify=cheap_verify,
            now=self.now,
            epoch_s=EPOCH_S + self.now,
            tuning=tuning or self._tuning,
        )
        sim = SimNode(node, host or self.host(), 8468, lie)
        if known is None:
            known = self.some(min(3, len(self.nodes)))
        self.nodes.append(sim)
        self._at[sim.host, sim.port] = sim
        node.start(self.now)
        node.add_places([(each.host, each.port) for each in known], self.now)
        self._flush(sim)
        return sim

    def grow(self, n: int, *, every_s: float = 0.05, lies: float = 0.0) -> None:
        """Let `n` nodes join, one after the other; `lies` is the share of liars."""
        for i in range(n):
            is_liar = i > 20 and self.random.random() < lies
            self.add(lie=LIES[i % len(LIES)] if is_liar else "")
            self.run(every_s)
        self.run(30.0)

    def alive(self, *, honest: bool = True) -> list[SimNode]:
        return [n for n in self.nodes if n.alive and not (honest and n.lie)]

    def some(self, n: int, wanted: Callable[[SimNode], bool] = lambda sim: True) -> list[SimNode]:
        """At most `n` random honest living nodes that are `wanted`, without a look at all nodes."""
        chosen: dict[int, SimNode] = {}
        for _ in range(100 * n):
            sim = self.random.choice(self.nodes)
            if sim.alive and not sim.lie and wanted(sim):
                chosen[sim.node.id] = sim
                if len(chosen) == n:
                    break
        return list(chosen.values())

    def kill(self, sim: SimNode) -> None:
        sim.alive = False

    # Time

    def at(self, due: float, call: Callable[[], None]) -> None:
        heappush(self._events, (due, next(self._numbers), call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end, events = self.now + seconds, self._events
        while events and events[0][0] <= end:
            due, _, call = heappop(events)
            self.now = max(self.now, due)
            call()
        self.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until `condition` holds, or for `seconds`; whether it held."""
        end = self.now + seconds
        while not condition():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return condition()
            due, _, call = heappop(self._events)
            self.now = max(self.now, due)
            call()
        return True

    # Network

    def _flush(self, sim: SimNode) -> None:
        for outgoing in sim.node.take_outgoing():
            self._send(sim, outgoing)
        due = sim.node.due()
        if due is not None and (sim.wakes_at is None or due < sim.wakes_at):
            sim.wakes_at = due
            self.at(due, lambda: self._wake(sim, due))

    def _wake(self, sim: SimNode, due: float) -> None:
        if sim.alive and sim.wakes_at == due:
            sim.wakes_at = None
            sim.node.run(self.now)
            self._flush(sim)

    def _send(self, sim: SimNode, outgoing: Outgoing) -> None:
        self.messages += 1
        to = self._at.get((outgoing.host, outgoing.port))
        if to is None or (self._loss and self.random.random() < self._loss):
            return
        message, size = outgoing.message, max(outgoing.pad_bytes, REQUEST_BYTES)
        delay_s = self.random.uniform(*self._latency_s)
        self.at(self.now + delay_s, lambda: self._deliver(sim, to, message, size))

    def _deliver(self, sim: SimNode, to: SimNode, message: Request | Reply, size: int) -> None:
        if not to.alive or sim.side != to.side:
            return
        if isinstance(message, Request) and to.lie:
            self._lie(to, message, sim, size)
            return
        if isinstance(message, Reply) and not to.node.expects(message, sim.host, sim.port):
            return
        to.node.receive(message, sim.host, sim.port, size, self.now)
        self._flush(to)

    def _lie(self, liar: SimNode, request: Request, asker: SimNode, size: int) -> None:
        if liar.lie == "silence" and request.query in (Query.FIND, Query.GET, Query.STORE):
            return
        liar.node.receive(request, asker.host, asker.port, size, self.now)
        sent = liar.node.take_outgoing()
        for outgoing in sent:
            reply = outgoing.message
            if isinstance(reply, Reply) and request.query in (Query.FIND, Query.GET):
                self._falsify(liar, reply, request)
            self._send(liar, outgoing)

    def _falsify(self, liar: SimNode, reply: Reply, request: Request) -> None:
        """Name nodes that are not there, near what is asked for; forge records."""
        near = []
        for _ in range(20):
            if liar.lie == "sybil":
                other = self.random.choice([n for n in self.nodes if n.lie == "sybil"])
                near.append(contact_of(other.node.state.key, other.host, other.port))
            else:
                near.append(contact_of(self.random.randbytes(32), self.host(), 8468))
        reply.nodes = tuple({n.id: n for n in near}.values())
        reply.records = ()
        if request.query is Query.GET and liar.lie == "records":
            forged = DhtRecord(
                Kind.PROVIDER,
                request.key,
                self.random.randbytes(32),
                10**15,
                int(EPOCH_S + self.now + 3600),
                b"forged",
            )
            reply.records = (replace(forged, signature=bytes(64)),)

    @contextmanager
    def split(self) -> Iterator[None]:
        """Two halves that do not hear each other while the block runs."""
        for i, sim in enumerate(self.nodes):
            sim.side = i % 2
        yield
        for sim in self.nodes:
            sim.side = 0

    # Doing

    def put(self, sim: SimNode, name: str, value: bytes = b"value") -> Stored:
        """Publish a provider record and wait until it is stored."""
        done: list[Stored] = []
        sim.node.publishing.put(
            Kind.PROVIDER, provider_key(name), value, self.now, on_stored=done.append
        )
        self._flush(sim)
        assert self.run_until(lambda: bool(done), 60.0), f"{name} was not stored"
        return done[0]

    def get(self, sim: SimNode, name: str) -> tuple[Found, float]:
        """Search for a name; the outcome, and how long it took."""
        return self.get_all([(sim, name)])[0]

    def get_all(self, searches: Sequence[tuple[SimNode, str]]) -> list[tuple[Found, float]]:
        """Search for names at the same time; the outcomes, and how long each took."""
        done: dict[int, tuple[Found, float]] = {}
        start = self.now

        def ended(number: int, found: Found) -> None:
            done[number] = found, self.now - start

        for number, (sim, name) in enumerate(searches):
            key = provider_key(name)
            sim.node.finding.get(key, node_id_of_key(key), self.now, partial(ended, number))
            self._flush(sim)
        assert self.run_until(lambda: len(done) == len(searches), 60.0), "searches do not end"
        return [done[number] for number in range(len(searches))]

    def _lacks(self, key: bytes, sim: SimNode) -> bool:
        return not sim.node.state.store.get(key, EPOCH_S + self.now)

    def search(
        self, names: Sequence[str], n: int, value: bytes = b"value", *, at_once: int = 1
    ) -> Result:
        """`n` searches from random honest nodes that do not keep the record themselves."""
        result = Result()
        for first in range(0, n, at_once):
            wanted = [names[i % len(names)] for i in range(first, min(n, first + at_once))]
            askers = (self.some(1, partial(self._lacks, provider_key(name)))[0] for name in wanted)
            for found, took_s in self.get_all(list(zip(askers, wanted, strict=True))):
                result.asked += 1
                result.found += [r.value for r in found.records] == [value]
                result.hops[found.hops] += 1
                result.sent.append(found.sent)
                result.took_s.append(took_s)
        return result


def node_id_of_key(key: bytes) -> int:
    """The point of a record's key."""
    return int.from_bytes(key[:20], "big")


def key_near(random: Random, target: int, bits: int) -> bytes:
    """A public key whose id shares `bits` bits with `target`, found by trying."""
    while True:
        key = random.randbytes(32)
        if (node_id.__wrapped__(key) ^ target) >> (160 - bits) == 0:
            return key
