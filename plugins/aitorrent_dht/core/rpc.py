"""Requests in flight: sent, repeated once, answered, late or failed.

An answer counts only from the address that was asked, with its transaction id, signed by the key
that was expected there. Every answer renews its node in the routing table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aitorrent_dht.core.contact import Contact, contact_of, scope_of
from aitorrent_dht.core.state import NodeState, Outgoing, id_bytes
from aitorrent_dht.core.timers import Timer
from aitorrent_dht.core.timing import MAX_RTO_S
from aitorrent_dht.wire.messages import (
    MAX_DATAGRAM_BYTES,
    PASSING_BYTES,
    REPLY_BYTES,
    TXID_BYTES,
    Query,
    Reply,
    Request,
)

PATIENCE: Final = 3
"Timeouts until a request has failed; it is repeated after the first."
MIN_PATIENCE_S: Final = 1.0
MAX_IN_FLIGHT: Final = 4096
GREET_S: Final = 1.0
"After an answer to a search: what the search still has to do comes first."
_REMEMBERED: Final = 512
_AGAIN_S: Final = 600.0

OnReply = Callable[[Reply, Contact, float], None]
OnTime = Callable[[float], None]


def _nothing(now: float) -> None:
    pass


@dataclass(slots=True)
class _Pending:
    contact: Contact | None
    query: Query
    host: str
    port: int
    outgoing: Outgoing
    sent_at: float
    on_reply: OnReply
    on_late: OnTime
    on_fail: OnTime
    timer: Timer
    fails_at: float
    is_repeated: bool = False


class Rpc:
    """The requests of one node."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._pending: dict[bytes, _Pending] = {}
        self._greeted: OrderedDict[int, float] = OrderedDict()
        self._checking: set[int] = set()
        self.on_lost: Callable[[Contact], None] = lambda contact: None
        "Called when a node drops out of the table."

    def __len__(self) -> int:
        return len(self._pending)

    # Asking

    def ask(
        self,
        contact: Contact,
        request: Request,
        now: float,
        *,
        on_reply: OnReply,
        on_fail: OnTime = _nothing,
        on_late: OnTime = _nothing,
    ) -> None:
        """Send `request` to a node; exactly one of `on_reply` and `on_fail` follows."""
        entry = self._state.table.get(contact.id)
        if entry is not None and not request.token:
            request.token = entry.token
        rto_s = self._state.round_trip.rto_s()
        if entry is not None:
            rto_s = entry.round_trip.rto_s(rto_s)
        request.to = id_bytes(contact.id)
        place = (contact.host, contact.port)
        self._send(contact, place, request, rto_s, now, (on_reply, on_late, on_fail))

    def ask_address(
        self, host: str, port: int, now: float, *, on_reply: OnReply, on_fail: OnTime = _nothing
    ) -> None:
        """Ping whichever node is at an address."""
        request = self.request(Query.PING)
        rto_s = self._state.round_trip.rto_s()
        self._send(None, (host, port), request, rto_s, now, (on_reply, _nothing, on_fail))

    def ping(
        self, contact: Contact, now: float, *, token: bytes = b"", on_fail: OnTime = _nothing
    ) -> None:
        """Ping a node, unless a ping to it is on the way."""
        if contact.id in self._checking:
            return
        self._checking.add(contact.id)

        def replied(reply: Reply, contact: Contact, now: float) -> None:
            self._checking.discard(contact.id)

        def failed(now: float) -> None:
            self._checking.discard(contact.id)
            on_fail(now)

        request = self.request(Query.PING)
        request.token = token
        self.ask(contact, request, now, on_reply=replied, on_fail=failed)

    def request(self, query: Query) -> Request:
        """A new request of this node."""
        state = self._state
        return Request(
            query=query,
            txid=state.random.randbytes(TXID_BYTES),
            sender=state.key,
            is_client=state.is_client,
            want=state.families,
        )

    def _send(
        self,
        contact: Contact | None,
        place: tuple[str, int],
        request: Request,
        rto_s: float,
        now: float,
        calls: tuple[OnReply, OnTime, OnTime],
    ) -> None:
        state, (host, port) = self._state, place
        if len(self._pending) >= MAX_IN_FLIGHT or not scope_of(host):
            state.timers.at(now, calls[2])
            return
        is_large = not request.token and request.query in (Query.FIND, Query.GET)
        pad = MAX_DATAGRAM_BYTES if is_large else REPLY_BYTES
        recipient = b"" if contact is None else contact.key
        outgoing = Outgoing(request, host, port, pad, recipient)
        txid = request.txid
        timer = state.timers.at(now + rto_s, lambda now: self._late(txid, now))
        patience_s = max(PATIENCE * rto_s, MIN_PATIENCE_S)
        self._pending[txid] = _Pending(
            contact, request.query, host, port, outgoing, now, *calls, timer, now + patience_s
        )
        state.outgoing.append(outgoing)
        state.reachability.sent(host, now)
        state.counts["requests"] += 1

    def _late(self, txid: bytes, now: float) -> None:
        pending = self._pending.get(txid)
        if pending is None:
            return
        if now < pending.fails_at:
            if not pending.is_repeated:
                pending.is_repeated = True
                pad = min(pending.outgoing.pad_bytes, PASSING_BYTES)
                self._state.outgoing.append(pending.outgoing._replace(pad_bytes=pad))
                self._state.counts["repeated"] += 1
                pending.on_late(now)
            pending.timer = self._state.timers.at(
                pending.fails_at, lambda now: self._late(txid, now)
            )
            return
        del self._pending[txid]
        self._state.counts["timeouts"] += 1
        if pending.contact is not None and self._state.table.failed(pending.contact):
            self.on_lost(pending.contact)
        pending.on_fail(now)

    # Being answered

    def expects(self, reply: Reply, host: str, port: int) -> bool:
        """Whether a reply belongs to a request of this node; checked before its signature is."""
        pending = self._pending.get(reply.txid)
        if pending is None or (pending.host, pending.port) != (host, port):
            return False
        if pending.contact is not None and pending.contact.key != reply.sender:
            return False
        return reply.to == id_bytes(self._state.id) and reply.sender != self._state.key

    def receive(self, reply: Reply, host: str, port: int, now: float) -> None:
        """Take a reply that is expected and whose sender is proven."""
        pending = self._pending.pop(reply.txid, None)
        if pending is None:
            return
        pending.timer.cancel()
        contact = contact_of(reply.sender, host, port)
        rtt_s = None if pending.is_repeated else min(now - pending.sent_at, MAX_RTO_S)
        if rtt_s is not None:
            self._state.round_trip.add(rtt_s)
        if reply.observed is not None:
            self._state.reachability.observed(host, reply.observed[0])
        if not reply.is_client:
            self.verified(contact, now)
            self._accept(reply, contact, pending.query, now)
        entry = self._state.table.get(contact.id)
        if entry is not None and entry.contact == contact:
            entry.token = reply.token
            if rtt_s is not None:
                entry.round_trip.add(rtt_s)
        pending.on_reply(reply, contact, now)

    def verified(self, contact: Contact, now: float) -> None:
        """Note that a node proved its key at its address."""
        if not self._state.can_use(contact):
            return
        oldest = self._state.table.seen(contact, now)
        if oldest is not None:
            self.ping(oldest, now)

    def _accept(self, reply: Reply, contact: Contact, query: Query, now: float) -> None:
        """Prove this node's address to one that would keep it in its table."""
        if not reply.invites or self._state.is_client:
            return
        last = self._greeted.get(contact.id)
        if last is not None and now - last < _AGAIN_S:
            return
        self._greeted[contact.id] = now
        self._greeted.move_to_end(contact.id)
        if len(self._greeted) > _REMEMBERED:
            self._greeted.popitem(last=False)
        if query is not Query.GET:
            self.ping(contact, now, token=reply.token)
            return
        token = reply.token
        self._state.timers.at(now + GREET_S, lambda now: self.ping(contact, now, token=token))
