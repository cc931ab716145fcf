"""One lookup: whom to ask next on the way to a point of the id space.

Iterative lookups of "Kademlia" (2002), section 2.3, on several paths that share no node, so that a
liar spoils only its own path (Baumgart and Mies, "S/Kademlia", 2007, section 4.3). A node that is
slow keeps its chance to answer but frees its place for the next one: waiting for dead nodes is what
lookups spend their time on. No I/O and no clock: the caller reports answers, delays and failures.

`finding.py` starts a lookup (`get`, `put`, `find_nodes`); `walk.py` carries it out.
"""

from __future__ import annotations

from bisect import insort
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


class _Node:
    """A node that was named to a lookup."""

    __slots__ = ("by", "contact", "depth", "path", "silent", "state", "tells")

    def __init__(self, contact: Contact, depth: int, by: _Node | None) -> None:
        self.contact = contact
        self.depth = depth
        "Length of the chain of nodes that named each other, up to this one."
        self.by = by
        "The first that named it; None for a seed."
        self.state = State.WAITING
        self.path: _Path | None = None
        "The path that asked it."
        self.silent = 0
        "Nodes that it named and that did not answer in time."
        self.tells = False
        "Whether a node that it named answered."


class _Path:
    __slots__ = ("busy", "has_hit", "known", "nodes", "replies")

    def __init__(self) -> None:
        self.nodes: list[tuple[int, _Node]] = []
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
        self.k = k
        self._width = -(-k // paths)
        self._quorum = quorum
        self._max_asked = max_asked
        self._grows = grows
        self._avoid = avoid
        self._paths = [_Path() for _ in range(paths)]
        self._nodes: dict[int, _Node] = {}
        self._subnets: dict[str, int] = {}
        self._replied: list[tuple[int, Contact]] = []
        for i, seed in enumerate(seeds):
            self._add(self._paths[i % paths], seed, None)

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
                node = self._next(path) if has_room else None
                if node is not None:
                    node.state, node.path = State.ASKED, path
                    self.asked += 1
                    path.busy += 1
                    has_asked = True
                    chosen.append(node.contact)
        return chosen

    def replied(self, contact: Contact, nodes: Iterable[Contact], *, hit: bool = False) -> None:
        """Note an answer with the nodes that it named; `hit` if it had what was looked for."""
        node = self._nodes.get(contact.id)
        if node is None or node.path is None or node.state not in (State.ASKED, State.SLOW):
            return
        path = node.path
        path.busy -= node.state is State.ASKED
        node.state = State.REPLIED
        insort(self._replied, (contact.id ^ self.target, contact))
        path.replies += 1
        path.has_hit = path.has_hit or hit
        if node.by is not None:
            node.by.tells = True
        self.hops = max(self.hops, node.depth + 1)
        if not self._grows or self._has_quorum:
            return
        # With fewer seeds than paths, the others start from what the first nodes name.
        paths = [path, *(p for p in self._paths if not p.nodes)]
        for named in nodes:
            for each in paths:
                self._add(each, named, node)

    def slow(self, contact: Contact) -> None:
        """Note that an answer is late; the node may still answer."""
        node = self._nodes.get(contact.id)
        if node is not None and node.state is State.ASKED:
            self._give_up(node)
            node.state = State.SLOW

    def failed(self, contact: Contact) -> None:
        """Note that no answer will come."""
        node = self._nodes.get(contact.id)
        if node is None:
            return
        if node.state is State.ASKED:
            self._give_up(node)
        if node.state in (State.ASKED, State.SLOW):
            node.state = State.FAILED

    @property
    def is_done(self) -> bool:
        """Whether there is nobody left to ask or to wait for."""
        if self._has_quorum:
            return True
        any_hit = any(path.has_hit for path in self._paths)
        return all(self._is_exhausted(path, any_hit=any_hit) for path in self._paths)

    @property
    def _has_quorum(self) -> bool:
        return 0 < self._quorum <= sum([path.has_hit for path in self._paths])

    @property
    def is_whole(self) -> bool:
        """Whether it ended by asking the nearest `k` nodes, so that `closest` tells of them all."""
        return not self._has_quorum and self.asked < self._max_asked

    def knows(self, contact: Contact) -> bool:
        """Whether exactly this contact was named to it before."""
        node = self._nodes.get(contact.id)
        return node is not None and node.contact == contact

    def named(self) -> list[Contact]:
        """Every node that was named to it, or that it started from."""
        return [node.contact for node in self._nodes.values()]

    def closest(self, count: int) -> list[Contact]:
        """The nearest nodes that answered, nearest first."""
        return [contact for _, contact in self._replied[:count]]

    # How it decides

    def _add(self, path: _Path, contact: Contact, by: _Node | None) -> None:
        node_id = contact.id
        if node_id in path.known or node_id == self._own_id:
            return
        if self._avoid is not None and node_id ^ self._avoid[0] < self._avoid[1]:
            return
        node = self._nodes.get(node_id)
        if node is None:
            subnet = subnet_of(contact.host)
            if subnet:
                count = self._subnets.get(subnet, 0)
                if count >= PER_TABLE:
                    return
                self._subnets[subnet] = count + 1
            node = self._nodes[node_id] = _Node(contact, by.depth + 1 if by else 0, by)
        path.known.add(node_id)
        insort(path.nodes, (node_id ^ self.target, node))

    def _window(self, path: _Path) -> Iterable[_Node]:
        """The nearest nodes of a path, without those that are silent or another path's."""
        left = self._width
        for _, node in path.nodes:
            if node.state in (State.FAILED, State.SLOW) or node.path not in (None, path):
                continue
            yield node
            left -= 1
            if not left:
                return

    def _next(self, path: _Path) -> _Node | None:
        for node in self._window(path):
            if node.state is State.WAITING:
                return node
        return None

    def _is_exhausted(self, path: _Path, *, any_hit: bool) -> bool:
        if self._quorum and path.has_hit:
            return True
        is_waiting = False
        for node in self._window(path):
            if node.state is State.ASKED:
                return False
            is_waiting = is_waiting or node.state is State.WAITING
        if is_waiting:
            return self.asked >= self._max_asked
        if path.replies or any_hit:
            return True
        return not any(n.path is path and n.state is State.SLOW for _, n in path.nodes)

    def _give_up(self, node: _Node) -> None:
        """Free the place of a node that is silent, and count it against the one that named it."""
        if node.path is not None:
            node.path.busy -= 1
        by = node.by
        if by is None:
            return
        by.silent += 1
        if by.silent < DISTRUST or by.tells:
            return
        for other in self._nodes.values():
            if other.by is by and other.state is State.WAITING:
                other.state = State.FAILED
