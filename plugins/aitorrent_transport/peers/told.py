"""Dial addresses that peers announced: untrusted, checked, bounded. No I/O."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from aitorrentd.api import InvalidParams, PeerId
from aitorrentd.api.network.addresses import (
    MAX_ADDRESS_CHARS,
    Address,
    address_of,
    is_loopback,
    parse_address,
)

MAX_TOLD_ADDRESSES: Final = 16
MAX_REMEMBERED: Final = 1024


class ToldAddresses:
    """The addresses of the last thousand peers that announced any."""

    def __init__(self) -> None:
        self._told: OrderedDict[PeerId, tuple[Address, ...]] = OrderedDict()
        self._listed: dict[PeerId, list[str]] = {}

    def of(self, peer: PeerId) -> Sequence[Address]:
        """The addresses that `peer` announced last."""
        return self._told.get(peer, ())

    def note(self, peer: PeerId, listed: object, remote: str) -> None:
        """Replace the addresses of `peer` by its list, received on a channel from `remote`."""
        texts = _texts(listed)
        self._told[peer] = told_addresses(texts, peer, remote)
        self._told.move_to_end(peer)
        self._listed[peer] = texts
        if len(self._told) > MAX_REMEMBERED:
            oldest, _ = self._told.popitem(last=False)
            del self._listed[oldest]

    def moved(self, peer: PeerId, remote: str) -> bool:
        """Its channel now comes from `remote`; return whether that changes its addresses."""
        before = self.of(peer)
        if peer in self._listed:
            self.note(peer, self._listed[peer], remote)
        return self.of(peer) != before


def _texts(listed: object) -> list[str]:
    """What a list of addresses from a peer may contain, bounded."""
    first = listed[:MAX_TOLD_ADDRESSES] if isinstance(listed, list) else ()
    return [text for text in first if isinstance(text, str) and len(text) <= MAX_ADDRESS_CHARS]


def told_addresses(listed: object, peer: PeerId, remote: str) -> tuple[Address, ...]:
    """Dial addresses of a peer, from its own list and the remote address of its channel.

    The list is untrusted: entries that are not addresses of this peer are dropped, as are loopback
    addresses from another machine.
    """
    found: dict[Address, None] = {}
    here = remote.startswith("127.") or remote == "::1"
    for text in listed[:MAX_TOLD_ADDRESSES] if isinstance(listed, list) else ():
        try:
            address = parse_address(text)
        except InvalidParams:
            continue
        if address.peer not in (None, peer) or _needs_zone(address):
            continue
        try:
            seen = address_of(remote, address.port, peer)
        except InvalidParams:
            seen = None
        if seen is not None and "%" not in remote and address.relay is None:
            found.setdefault(seen)
        if here or not is_loopback(address.host):
            found.setdefault(address.of(peer))
    return tuple(found)[:MAX_TOLD_ADDRESSES]


def _needs_zone(address: Address) -> bool:
    """Whether it is an IPv6 link-local address, which means nothing without a zone."""
    return address.family == "ip6" and ipaddress.ip_address(address.host).is_link_local
