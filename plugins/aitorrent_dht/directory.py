"""The DHT as a source of the directory: this node's offers are published, others' are found.

An offer becomes a provider record under the directory's key, with the addresses at which its node
can be dialled. What a record says is as trustworthy as its publisher, whose key signed it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_dht.core.finding import Found
from aitorrent_dht.core.node import DhtNode
from aitorrent_dht.core.record import MAX_VALUE_BYTES, DhtRecord, Kind, provider_key
from aitorrentd.api import (
    AitorrentError,
    InvalidParams,
    PeerId,
    ProtocolError,
    Record,
    pack,
    parse_peer_id,
    peer_id,
    unpack_map,
)
from aitorrentd.api.fields import texts
from aitorrentd.api.network.addresses import parse_address
from aitorrentd.api.network.directory import MAX_ADDRESSES

LOCAL: Final = ("ait:dht:", "ait:loading:")
"Prefixes of records that are for connected peers only."
MAX_KEY_CHARS: Final = 256
FRESH_S: Final = 60.0
"How long found records count as known."
MAX_FRESH: Final = 1024
SETTLE_S: Final = 15.0
"Between two publications of a record that keeps changing."
_MAX_ADDRESS_CHARS: Final = 128


@dataclass(slots=True)
class _Fresh:
    records: tuple[Record, ...]
    until: float


class DhtDirectory:
    """Implements `aitorrentd.api.Directory`. `search(key)` runs one search to its end."""

    def __init__(
        self,
        node: DhtNode,
        me: PeerId,
        *,
        now: Callable[[], float],
        addresses: Callable[[], Sequence[str]],
        search: Callable[[bytes], Any],
        flush: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self._node = node
        self._me = me
        self._now = now
        self._addresses = addresses
        self._search = search
        self._flush = flush
        self._log = log
        self._offers: dict[str, dict[str, Any]] = {}
        self._said: dict[str, tuple[bytes, float]] = {}
        "What was published last for each key, and when."
        self._fresh: dict[str, _Fresh] = {}
        self._searches: dict[str, asyncio.Future[tuple[Record, ...]]] = {}

    def __len__(self) -> int:
        return len(self._offers)

    # aitorrentd.api.Directory

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        """Publish `value` under `key`; a record that keeps changing is published now and then."""
        if key.startswith(LOCAL):
            return
        self._offers[key] = dict(value)
        self.refresh(key)

    def withdraw(self, key: str) -> None:
        """Delete this node's record under `key` from the DHT."""
        self._offers.pop(key, None)
        if self._said.pop(key, None) is not None:
            self._node.publishing.withdraw(provider_key(key), self._now())
            self._flush()

    def known(self, prefix: str) -> Sequence[Record]:
        """This node's offers, and what was found within the last minute."""
        now = self._now()
        own = [self._own(key) for key in self._offers if key.startswith(prefix)]
        return own + [
            record
            for key, fresh in self._fresh.items()
            if key.startswith(prefix) and fresh.until > now
            for record in fresh.records
        ]

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        """Records under exactly `key`, from the whole network."""
        own = [self._own(key)] if key in self._offers else []
        fresh = self._fresh.get(key)
        if fresh is not None and fresh.until > self._now():
            return [*own, *fresh.records]
        if key.startswith(LOCAL) or len(key) > MAX_KEY_CHARS or not len(self._node.state.table):
            return own
        async with asyncio.timeout(timeout_s):
            found: Found = await self._search(provider_key(key))
        records = tuple(
            record for raw in found.records if (record := self._read(key, raw)) is not None
        )
        if records:
            self._keep(key, records)
        return [*own, *records]

    # Own offers

    def refresh(self, key: str | None = None) -> None:
        """Publish what changed since it was published, addresses included."""
        now = self._now()
        for each in list(self._offers) if key is None else [key]:
            value = self._packed(each)
            said, at = self._said.get(each, (b"", -SETTLE_S))
            if value is None or value == said or now - at < SETTLE_S:
                continue
            self._said[each] = (value, now)
            self._node.publishing.put(Kind.PROVIDER, provider_key(each), value, now)
        self._flush()

    def _own(self, key: str) -> Record:
        return Record(key, self._me, self._offers[key], tuple(self._addresses()))

    def _packed(self, key: str) -> bytes | None:
        """The record's value, with as many addresses as fit; None if it is too large."""
        tail = f"/p2p/{self._me}"
        addresses = [text.removesuffix(tail) for text in self._addresses()]
        for count in range(min(len(addresses), MAX_ADDRESSES), -1, -1):
            try:
                raw = pack({"v": self._offers[key], "a": addresses[:count]})
            except (TypeError, ValueError, OverflowError) as e:
                raise InvalidParams(f"the value under {key} cannot be packed: {e}") from None
            if len(raw) <= MAX_VALUE_BYTES:
                return raw
        self._log.warning(
            "the record under %s is too large for the DHT (at most %d bytes); only connected peers"
            " see it",
            key,
            MAX_VALUE_BYTES,
        )
        return None

    # Others' records

    def _keep(self, key: str, records: tuple[Record, ...]) -> None:
        now = self._now()
        for old in [k for k, fresh in self._fresh.items() if fresh.until <= now]:
            del self._fresh[old]
        if len(self._fresh) < MAX_FRESH:
            self._fresh[key] = _Fresh(records, now + FRESH_S)

    def _read(self, key: str, raw: DhtRecord) -> Record | None:
        peer = peer_id(raw.publisher)
        if peer == self._me:
            return None
        try:
            return read_offer(key, peer, raw.value)
        except ProtocolError as e:
            self._log.debug("a record of %s under %s: %s", peer, key, e.message)
            return None


def read_offer(key: str, peer: PeerId, value: bytes) -> Record:
    """The directory record in the value of `peer`'s record under `key`.

    Addresses that nobody can dial are left out; the others are those of `peer`, whom the transport
    expects there.

    Raises:
        ProtocolError: the value is malformed.
    """
    fields = unpack_map(value, max_items=512)
    offer = fields.get("v")
    if not isinstance(offer, dict) or not all(isinstance(name, str) for name in offer):
        raise ProtocolError("v must be a map with text keys")
    listed = texts(fields, "a", MAX_ADDRESSES, _MAX_ADDRESS_CHARS, printable=True)
    return Record(key, peer, offer, tuple(a for text in listed if (a := _dialable(text, peer))))


def _dialable(text: str, peer: PeerId) -> str:
    try:
        address = parse_address(text)
    except AitorrentError:
        return ""
    if address.peer not in (None, peer):
        return ""
    return str(address.of(parse_peer_id(peer)))


def place_of(address: str) -> tuple[str, int] | None:
    """IP address and TCP port of a multiaddr; None for a name, or a place behind a relay."""
    try:
        parsed = parse_address(address)
        ipaddress.ip_address(parsed.host)
    except (AitorrentError, ValueError):
        return None
    return (parsed.host, parsed.port) if parsed.relay is None else None
