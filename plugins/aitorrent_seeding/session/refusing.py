"""Addresses that no torrent has connections with for a while, since corrupt pieces came from there.

libtorrent bans the address and port of such a peer. One that dials anew comes from another port,
and would spoil a piece each time: several others send to a piece, and all of it is fetched again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import libtorrent as lt

from aitorrent_seeding.session.links import Links, Place

REFUSED_S: Final = 900.0
MOST: Final = 1000
"Addresses at a time; the oldest is let in again for another."
STRIKES: Final = 3
"Corrupt peers at an address that others are connected from, until those are refused, too."
_KNOWN: Final = 10_000
"Addresses whose strikes are counted."
_BLOCKED: Final = 1
"`ip_filter::blocked`, which the Python binding does not name."


class Refusing:
    """Which addresses are refused; `apply` makes a filter libtorrent's."""

    def __init__(self, apply: Callable[[Any], None], log: logging.Logger) -> None:
        self._apply = apply
        self._log = log
        self._strikes: Counter[str] = Counter()
        self._refused: dict[str, asyncio.TimerHandle] = {}

    def corrupt(self, place: Place, every: Iterable[Links]) -> None:
        """The peer at `place` sent corrupt pieces; `every` has the connections of all torrents.

        Peers of this machine are never refused: all of them have one address.
        """
        address = place[0].partition("%")[0]
        if address in self._refused or ipaddress.ip_address(address).is_loopback:
            return
        self._strikes[address] += 1
        is_shared = any(
            link.ended_at is None
            and link.place[0] == place[0]
            and link.place != place
            and not link.was_banned
            for links in every
            for link in links
        )
        if is_shared and self._strikes[address] < STRIKES:
            if len(self._strikes) > _KNOWN:
                del self._strikes[next(iter(self._strikes))]
            return
        del self._strikes[address]
        if len(self._refused) >= MOST:
            oldest = next(iter(self._refused))
            self._refused.pop(oldest).cancel()
        loop = asyncio.get_running_loop()
        self._refused[address] = loop.call_later(REFUSED_S, self._let_in, address)
        self._change()
        self._log.warning(
            "corrupt pieces came from %s; refusing connections with it for %d min",
            address,
            REFUSED_S // 60,
        )

    def _let_in(self, address: str) -> None:
        del self._refused[address]
        self._change()

    def _change(self) -> None:
        rules = lt.ip_filter()
        for address in self._refused:
            rules.add_rule(address, address, _BLOCKED)
        self._apply(rules)

    def close(self) -> None:
        """Forget all of them."""
        for timer in self._refused.values():
            timer.cancel()
        self._refused.clear()
