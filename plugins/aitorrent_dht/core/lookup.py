"""One lookup: whom to ask next on the way to a point of the id space.

Iterative lookups of "Kademlia" (2002), section 2.3, on several paths that share no node, so that a
liar spoils only its own path (Baumgart and Mies, "S/Kademlia", 2007, section 4.3). A node that is
slow keeps its chance to answer but frees its place for the next one: waiting for dead nodes is what
lookups spend their time on. No I/O and no clock: the caller reports answers, delays and failures.

`finding.py` starts a lookup (`get`, `put`, `find_nodes`); `walk.py` carries it out.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from aitorrent_dht.core.contact import Contact, subnet_of
from aitorrent_dht.core.table import PER_TABLE, K

ALPHA: Final = 3
PATHS: Final = 3
MAX_ASKED: Final = 150
"Nodes that one lookup asks at most, however many are named to it."
DISTRUST: Final = 3
"Silent nodes named by one that named no answering node: what else it named is not asked."


class State(IntEnum):
    """What a lookup knows of a node."""

    WAITING = 0
    ASKED = 1
    SLOW = 2
    REPLIED = 3
    FAILED = 4


class _Path:
    __slots__ = ("busy", "has_hit", "known", "nodes", "replies")

    def __init__(self) -> None:
        self.nodes: list[tuple[int, Contact]] = []
        "Nearest first. Several paths may know a node; the first to ask it has it."
        self.known: set[int] = set()
        self.busy = 0
        "Its nodes whose answer is not late yet."
        self.replies = 0
        self.has_hit = False


class Lookup:
    """Whom to ask for `target`, starting from `seeds`.

    `quorum` paths with a hit end it; 0 asks until the nearest `k` nodes have answered. Unless it
    `grows`, it asks the seeds and nobody that they name. Nodes nearer to a point than a distance,
    both in `avoid`, are not asked.
    """

    def __init__(
        self,
        target: int,
        seeds: Sequence[Contact],
        *,
        own_id: int,
        k: int = K,
        alpha: int = ALPHA,
        paths: int = 1,
        quorum: int = 0,
        max_asked: int = MAX_ASKED,
        grows: bool = True,
        avoid: tuple[int, int] | None = None,
    ) -> None:
        self.target = target
        self.asked = 0
        self.hops = 0
        "Length of the longest chain of nodes that named each other."
        self._own_id = own_id
        self._alpha = alpha
        self._width = -(-k // paths)
        self._quorum = quorum
        self._max_asked = max_asked
        self._grows = grows
        self._avoid = avoid
        self._paths = [_Path() for _ in range(paths)]
        self._states: dict[int, State] = {}
        self._named: dict[int, Contact] = {}
        self._path_of: dict[int, _Path] = {}
        "The path that asked a node."
        self._depth: dict[int, int] = {}
        self._named_by: dict[int, int] = {}
        self._silent: Counter[int] = Counter()
        self._answering: set[int] = set()
        self._subnets: Counter[str] = Counter()
        self._replied: list[tuple[int, Contact]] = []
        for i, seed in enumerate(seeds):
            self._add(self._paths[i % paths], seed, 0, None)

    # What the caller does

    def ready(self) -> list[Contact]:
        """Nodes to ask now; each counts as asked.

        Paths share the places equally: those of a path that has a hit are not filled by others
        whose nodes are still to answer, most of which have a hit, too.
        """
        chosen: list[Contact] = []
        active = [path for path in self._paths if not path.has_hit or not self._quorum]
        active = [path for path in active if path.busy or self._next(path) is not None]
        if not active:
            return chosen
        share = max(1, self._alpha // len(active))
        has_asked = True
        while has_asked:
            has_asked = False
            for path in active:
                has_room = path.busy < share and self.asked < self._max_asked
                contact = self._next(path) if has_room else None
                if contact is not None:
                    self._states[contact.id] = State.ASKED
                    self._path_of[contact.id] = path
                    self.asked += 1
                    path.busy += 1
                    has_asked = True
                    chosen.append(contact)
        return chosen

    def replied(self, contact: Contact, nodes: Iterable[Contact], *, hit: bool = False) -> None:
        """Note an answer with the nodes that it named; `hit` if it had what was looked for."""
        state = self._states.get(contact.id)
        if state not in (State.ASKED, State.SLOW):
            return
        path = self._path_of[contact.id]
        path.busy -= state is State.ASKED
        self._states[contact.id] = State.REPLIED
        insort(self._replied, (contact.id ^ self.target, contact))
        path.replies += 1
        path.has_hit = path.has_hit or hit
        self._answering.add(self._named_by.get(contact.id, -1))
        depth = self._depth[contact.id] + 1
        self.hops = max(self.hops, depth)
        # With fewer seeds than paths, the others start from what the first nodes name.
        paths = [path, *(p for p in self._paths if not p.nodes)]
        for node in nodes if self._grows else ():
            for each in paths:
                self._add(each, node, depth, contact)

    def slow(self, contact: Contact) -> None:
        """Note that an answer is late; the node may still answer."""
        if self._states.get(contact.id) is State.ASKED:
            self._states[contact.id] = State.SLOW
            self._path_of[contact.id].busy -= 1
            self._blame(contact)

    def failed(self, contact: Contact) -> None:
        """Note that no answer will come."""
        state = self._states.get(contact.id)
        if state is State.ASKED:
            self._path_of[contact.id].busy -= 1
            self._blame(contact)
        if state in (State.ASKED, State.SLOW):
            self._states[contact.id] = State.FAILED

    @property
    def is_done(self) -> bool:
        """Whether there is nobody left to ask or to wait for."""
        hits = sum(path.has_hit for path in self._paths)
        if self._quorum and hits >= self._quorum:
            return True
        return all(self._is_exhausted(path, any_hit=hits > 0) for path in self._paths)

    def knows(self, contact: Contact) -> bool:
        """Whether exactly this contact was named to it before."""
        return self._named.get(contact.id) == contact

    def named(self) -> Iterable[Contact]:
        """Every node that was named to it, or that it started from."""
        return self._named.values()

    def closest(self, count: int) -> list[Contact]:
        """The nearest nodes that answered, nearest first."""
        return [contact for _, contact in self._replied[:count]]

    # How it decides

    def _add(self, path: _Path, node: Contact, depth: int, by: Contact | None) -> None:
        if node.id in path.known or node.id == self._own_id:
            return
        if self._avoid is not None and node.id ^ self._avoid[0] < self._avoid[1]:
            return
        if node.id not in self._states:
            subnet = subnet_of(node.host)
            if subnet:
                if self._subnets[subnet] >= PER_TABLE:
                    return
                self._subnets[subnet] += 1
            self._states[node.id] = State.WAITING
            self._named[node.id] = node
            self._depth[node.id] = depth
            if by is not None:
                self._named_by[node.id] = by.id
        path.known.add(node.id)
        insort(path.nodes, (node.id ^ self.target, node))

    def _window(self, path: _Path) -> Iterable[tuple[Contact, State]]:
        """The nearest nodes of a path, without those that are silent or another path's."""
        left = self._width
        for _, contact in path.nodes:
            state = self._states[contact.id]
            if state in (State.FAILED, State.SLOW):
                continue
            if state is not State.WAITING and self._path_of[contact.id] is not path:
                continue
            yield contact, state
            left -= 1
            if not left:
                return

    def _next(self, path: _Path) -> Contact | None:
        for contact, state in self._window(path):
            if state is State.WAITING:
                return contact
        return None

    def _is_exhausted(self, path: _Path, *, any_hit: bool) -> bool:
        if self._quorum and path.has_hit:
            return True
        is_waiting = False
        for _, state in self._window(path):
            if state is State.ASKED:
                return False
            is_waiting = is_waiting or state is State.WAITING
        if is_waiting:
            return self.asked >= self._max_asked
        if path.replies or any_hit:
            return True
        own = (c.id for _, c in path.nodes if self._path_of.get(c.id) is path)
        return all(self._states[node] is not State.SLOW for node in own)

    def _blame(self, contact: Contact) -> None:
        """Count a silent node against the one that named it."""
        by = self._named_by.get(contact.id)
        if by is None:
            return
        self._silent[by] += 1
        if self._silent[by] < DISTRUST or by in self._answering:
            return
        for node, teller in self._named_by.items():
            if teller == by and self._states[node] is State.WAITING:
                self._states[node] = State.FAILED
