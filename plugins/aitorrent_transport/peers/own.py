"""Where this node can be dialled: the bound addresses, or those of the interfaces behind them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from aitorrent_transport.links.binding import Binding
from aitorrent_transport.peers.interfaces import (
    by_usefulness,
    inner_addresses,
    own_addresses,
)
from aitorrentd.api import Advertiser, PeerId, Registry
from aitorrentd.api.network.addresses import Address, address_of, parse_address

INTERFACES_S: Final = 4.0
"Minimum interval between queries for the interface addresses."
TOLD_INTERFACES_S: Final = 60.0
"The same while changes are announced, each of which leads to a query at once."


class OwnAddresses:
    """The addresses of this node, most useful first; `announce` replaces what peers are told.

    `now()` returns monotonic seconds.
    """

    def __init__(
        self, binding: Binding, announce: Sequence[str], me: PeerId, now: Callable[[], float]
    ) -> None:
        self._binding = binding
        self._announce = [parse_address(text).of(me) for text in announce]
        self.advertisers: Registry[Advertiser] = Registry("advertiser")
        "Sources of addresses that are told besides those on which this node listens."
        self._me = me
        self._now = now
        self._found: list[Address] = []
        self._found_at = 0.0
        self.is_told = False
        "Whether `forget` is called at each change of the network."

    def forget(self) -> None:
        """Query the interfaces anew at the next call: they, or what is bound, have changed."""
        self._found = []

    def told(self) -> list[Address]:
        """The addresses that others are told."""
        found = dict.fromkeys(self._announce or self._listened())
        for advertiser in self.advertisers:
            found.update(dict.fromkeys(each.of(self._me) for each in advertiser.addresses()))
        return sorted(found, key=lambda address: address.relay is not None)

    def includes(self, address: Address) -> bool:
        """Whether this node itself listens at `address`, whatever peer is expected there."""
        place = address.host, address.port
        return any((own.host, own.port) == place for own in self._listened())

    def _listened(self) -> list[Address]:
        now = self._now()
        lasts_s = TOLD_INTERFACES_S if self.is_told else INTERFACES_S
        if not self._found or now - self._found_at > lasts_s:
            self._found, self._found_at = self._query(), now
        return self._found

    def _query(self) -> list[Address]:
        found: dict[str, int] = {}
        for host, port in self._binding.bound:
            ip = ipaddress.ip_address(host)
            for each in own_addresses(ip.version) if ip.is_unspecified else [host]:
                found.setdefault(each, port)
        inner = inner_addresses()
        # Zones differ on each machine, so addresses with one are useless to others.
        usable = [each for each in by_usefulness(list(found), inner) if "%" not in each]
        return list(dict.fromkeys(address_of(each, found[each], self._me) for each in usable))
