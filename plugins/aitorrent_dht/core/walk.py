"""A lookup carried out: asks the nodes that it chooses, and collects what they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aitorrent_dht.core.contact import Contact, can_name, least_scope
from aitorrent_dht.core.lookup import Lookup
from aitorrent_dht.core.record import DhtRecord, check
from aitorrent_dht.core.rpc import Rpc
from aitorrent_dht.core.state import NodeState, id_bytes
from aitorrent_dht.wire.messages import MAX_HAVE, Query, Reply, Request

MAX_FOUND: Final = 64
"Records that one lookup collects."
MAX_PAGES: Final = 8
"Further answers that one node is asked for."
ENOUGH: Final = 8
"Named nodes with which an answer is of use, although more did not fit."
LIMIT_S: Final = 20.0


class Walk:
    """One lookup of `rpc`'s node; `on_end(walk, now)` is called once, when it is done.

    With `key` it collects the records under that key, else it finds nodes.
    """

    def __init__(
        self,
        state: NodeState,
        rpc: Rpc,
        lookup: Lookup,
        on_end: Callable[[Walk, float], None],
        *,
        key: bytes = b"",
    ) -> None:
        self.lookup = lookup
        self.records: dict[bytes, DhtRecord] = {}
        "The newest of each publisher, deletions included."
        self.tokens: dict[int, bytes] = {}
        "What each node that answered gave for storing."
        self.sent = 0
        self.invalid = 0
        "Records that their publisher did not sign, or that have no place under the key."
        self._state = state
        self._rpc = rpc
        self._key = key
        self._on_end = on_end
        self._paging = 0
        self._pages: dict[int, int] = {}
        self._proven: set[int] = set()
        self._is_over = False

    def start(self, now: float) -> None:
        """Ask the first nodes."""
        self._state.table.touch(self.lookup.target, now)
        self._state.timers.at(now + LIMIT_S, self._end)
        self._step(now)

    def _step(self, now: float) -> None:
        if self._is_over:
            return
        if self.lookup.is_done and not self._paging:
            self._end(now)
            return
        for contact in self.lookup.ready():
            self._ask(contact, now)

    def _end(self, now: float) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_end(self, now)

    def _request(self) -> Request:
        request = self._rpc.request(Query.GET if self._key else Query.FIND)
        request.key = self._key or id_bytes(self.lookup.target)
        return request

    def _ask(self, contact: Contact, now: float, token: bytes = b"") -> None:
        def replied(reply: Reply, contact: Contact, now: float) -> None:
            self._replied(reply, contact, now)

        def late(now: float) -> None:
            self.lookup.slow(contact)
            self._step(now)

        def failed(now: float) -> None:
            self.lookup.failed(contact)
            self._step(now)

        self.sent += 1
        request = self._request()
        request.token = token
        self._rpc.ask(contact, request, now, on_reply=replied, on_late=late, on_fail=failed)

    def _replied(self, reply: Reply, contact: Contact, now: float) -> None:
        self.tokens[contact.id] = reply.token
        if self._is_over:
            return
        if self._says_too_little(reply) and contact.id not in self._proven:
            self._proven.add(contact.id)  # the token that it had from before was too old
            self._ask(contact, now, reply.token)
            return
        new = self._take(reply, now)
        if reply.is_client:
            self.lookup.failed(contact)
        else:
            if reply.has_more and new:
                self._ask_again(contact, reply.token, now)
            usable, knows, least = self._state.can_use, self.lookup.knows, least_scope(contact.host)
            nodes = (n for n in reply.nodes if knows(n) or (can_name(least, n) and usable(n)))
            is_hit = any(record.publisher in self.records for record in reply.records)
            self.lookup.replied(contact, nodes, hit=is_hit)
        self._step(now)

    def _says_too_little(self, reply: Reply) -> bool:
        """Whether an answer was cut so far that the node is asked again, with a valid token."""
        return reply.is_cut and not reply.records and len(reply.nodes) < ENOUGH

    def _take(self, reply: Reply, now: float) -> bool:
        """Keep valid records; whether one was new."""
        new = False
        for record in reply.records:
            known = self.records.get(record.publisher)
            if known is not None and known.seq >= record.seq:
                continue
            if known is None and len(self.records) >= MAX_FOUND:
                break
            is_wrong = record.key != self._key or check(record, self._state.epoch_s(now))
            if is_wrong or not self._state.verify(record):
                self.invalid += 1
                continue
            self.records[record.publisher] = record
            new = True
        return new

    def _ask_again(self, contact: Contact, token: bytes, now: float) -> None:
        """Ask a node for what did not fit in its answer."""
        pages = self._pages.get(contact.id, 0)
        if pages >= MAX_PAGES or len(self.records) >= MAX_FOUND:
            return
        self._pages[contact.id] = pages + 1
        self._paging += 1

        def replied(reply: Reply, contact: Contact, now: float) -> None:
            self._paging -= 1
            if not self._is_over:
                if self._take(reply, now) and reply.has_more:
                    self._ask_again(contact, reply.token, now)
                self._step(now)

        def failed(now: float) -> None:
            self._paging -= 1
            self._step(now)

        request = self._request()
        request.token = token
        request.have = tuple(record.digest for record in self.records.values())[:MAX_HAVE]
        self.sent += 1
        self._rpc.ask(contact, request, now, on_reply=replied, on_fail=failed)
