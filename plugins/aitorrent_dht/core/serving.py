"""Answers to other nodes: what they may know, within the room that they proved to have.

A node without a valid token may have forged its address, so that the answer goes to a victim: it
gets no more bytes than its request had. No answer goes to malformed or unsigned requests.
"""

from __future__ import annotations

import math
from typing import Final

from aitorrent_dht.core.contact import Contact, can_name, contact_of, id_of, least_scope
from aitorrent_dht.core.record import DhtRecord, check
from aitorrent_dht.core.rpc import Rpc
from aitorrent_dht.core.state import NodeState, Outgoing, id_bytes
from aitorrent_dht.core.store import Outcome
from aitorrent_dht.wire.messages import (
    MAX_DATAGRAM_BYTES,
    MAX_NODES,
    MAX_RECORDS,
    REPLY_BYTES,
    Family,
    Query,
    Refusal,
    Reply,
    Request,
    node_bytes,
)

WITH_RECORDS: Final = 6
"Nodes in an answer that has what was asked for: enough for each of three paths to go on."
_REFUSALS: Final = {
    Outcome.STORED: Refusal.NONE,
    Outcome.KNOWN: Refusal.NONE,
    Outcome.STALE: Refusal.STALE,
    Outcome.FULL: Refusal.FULL,
}


class Serving:
    """Answers the requests of other nodes."""

    def __init__(self, state: NodeState, rpc: Rpc) -> None:
        self._state = state
        self._rpc = rpc

    def receive(
        self, request: Request, host: str, port: int, size_bytes: int, now: float
    ) -> Reply | None:
        """Answer a request of `size_bytes` with a proven sender; None if it gets no answer."""
        state = self._state
        if request.sender == state.key or request.to not in (b"", id_bytes(state.id)):
            return None
        contact = contact_of(request.sender, host, port)
        is_proven = state.tokens.accepts(request.token, request.sender, host, port, now)
        room = (MAX_DATAGRAM_BYTES if is_proven else size_bytes) - REPLY_BYTES
        if room < 0:
            return None
        state.counts["served"] += 1
        state.reachability.asked(host, now)
        state.reachability.sent(host, now)
        if is_proven and not request.is_client:
            self._rpc.verified(contact, now)
        reply = Reply(
            txid=request.txid,
            sender=state.key,
            to=id_bytes(contact.id),
            token=state.tokens.give(request.sender, host, port, now),
            is_client=state.is_client,
            invites=not (is_proven or request.is_client) and state.table.would_take(contact),
        )
        if request.query is Query.PING:
            reply.observed = (host, port)
        elif request.query is Query.FIND:
            self._add_nodes(reply, request, contact, room)
        elif request.query is Query.GET:
            room = self._add_records(reply, request, room, now)
            self._add_nodes(reply, request, contact, room)
        else:
            self._store(reply, request, host, is_proven, room, now)
        reply.is_cut = reply.is_cut and not is_proven
        recipient = request.sender if request.is_paired else b""
        state.outgoing.append(Outgoing(reply, host, port, 0, recipient))
        return reply

    def _add_nodes(self, reply: Reply, request: Request, asker: Contact, room: int) -> None:
        target = id_of(request.key)
        ip4, ip6 = Family.IP4 in request.want, Family.IP6 in request.want
        least, own = least_scope(asker.host), asker.id

        count = min(self._state.tuning.k, WITH_RECORDS if reply.records else MAX_NODES)
        fitting: list[Contact] = []
        # Those that are silent here would cost the asker a timeout each.
        for node in self._state.table.nearest(target, answering=True):
            is_usable = ip6 if ":" in node.host else ip4
            if not is_usable or node.id == own or not can_name(least, node):
                continue
            room -= node_bytes(node)
            if room < 0:
                reply.is_cut = True
                break
            fitting.append(node)
            if len(fitting) == count:
                break
        reply.nodes = tuple(fitting)

    def _add_records(self, reply: Reply, request: Request, room: int, now: float) -> int:
        """Add records that the asker lacks, in random order; returns the room that is left."""
        have = set(request.have)
        found = [
            record
            for record in self._state.store.get(request.key, self._state.epoch_s(now))
            if record.digest not in have
        ]
        self._state.random.shuffle(found)
        chosen: list[DhtRecord] = []
        for record in found:
            left = room - record.size_bytes
            if left < 0 or len(chosen) == MAX_RECORDS:
                break
            chosen.append(record)
            room = left
        reply.records = tuple(chosen)
        reply.has_more = len(chosen) < len(found)
        reply.is_cut = reply.has_more and not chosen
        return room

    def _store(
        self, reply: Reply, request: Request, host: str, is_proven: bool, room: int, now: float
    ) -> None:
        record, state = request.record, self._state
        if not is_proven or record is None:
            reply.refusal = Refusal.TOKEN
            return
        epoch_s = state.epoch_s(now)
        if check(record, epoch_s) or not state.verify(record):
            state.counts["invalid_records"] += 1
            reply.refusal = Refusal.INVALID
            return
        until = self._until(record, epoch_s)
        outcome = state.store.put(record, host, until=until, epoch_s=epoch_s)
        state.counts[f"records_{outcome.value}"] += 1
        reply.refusal = _REFUSALS[outcome]
        if outcome is Outcome.STALE:
            held = state.store.held(record)
            if held is not None and held.size_bytes <= room:
                reply.records = (held,)

    def _until(self, record: DhtRecord, epoch_s: float) -> float:
        """How long to keep a record: half as long for each node beyond k that is nearer to it.

        So a record that was spread too widely, or whose neighbourhood has filled up, fades where
        nobody looks for it ("Kademlia", section 2.5).
        """
        state = self._state
        near = state.table.closest(record.target, 2 * state.tuning.k)
        own = state.id ^ record.target
        nearer = sum((contact.id ^ record.target) < own for contact in near)
        halvings = max(0, nearer - state.tuning.k)
        left_s = max(0.0, record.expires - epoch_s)
        return epoch_s + math.ldexp(left_s, -halvings)
