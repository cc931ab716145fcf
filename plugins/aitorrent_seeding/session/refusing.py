"""Addresses that no torrent has connections with for a while, since corrupt pieces came from there.

libtorrent bans the address and port of such a peer. One that dials anew comes from another port,
and would spoil a piece each time: several others send to a piece, and all of it is fetched again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import libtorrent as lt

from aitorrent_seeding.session.links import Links, Place

FIRST_S: Final = 60.0
"""How long at first; four times as long each time that it happens again. A node with one damaged
piece is still a source of the others, once that piece came from elsewhere."""
LONGEST_S: Final = 3600.0
MOST: Final = 1000
"Addresses at a time; the oldest is let in again for another."
STRIKES: Final = 3
"Corrupt peers at an address that others are connected from, until those are refused, too."
_KNOWN: Final = 10_000
"Addresses whose strikes are counted."
_FORGOTTEN_S: Final = 86_400.0
"After so long without a strike."
_BLOCKED: Final = 1
"`ip_filter::blocked`, which the Python binding does not name."


class Refusing:
    """Which addresses are refused; `apply` makes a filter libtorrent's."""

    def __init__(self, apply: Callable[[Any], None], log: logging.Logger) -> None:
        self._apply = apply
        self._log = log
        self._strikes: dict[str, tuple[int, float]] = {}
        "How many, and when the last one was."
        self._refused: dict[str, asyncio.TimerHandle] = {}

    def corrupt(self, place: Place, every: Iterable[Links]) -> None:
        """The peer at `place` sent corrupt pieces; `every` has the connections of all torrents.

        Peers of this machine are never refused: all of them have one address.
        """
        address = place[0].partition("%")[0]
        if address in self._refused or ipaddress.ip_address(address).is_loopback:
            return
        loop = asyncio.get_running_loop()
        strikes = self._strike(address, loop.time())
        is_shared = any(
            link.ended_at is None
            and link.place[0] == place[0]
            and link.place != place
            and not link.was_banned
            for links in every
            for link in links
        )
        if is_shared:
            strikes -= STRIKES - 1
        if strikes < 1:
            return
        if len(self._refused) >= MOST:
            oldest = next(iter(self._refused))
            self._refused.pop(oldest).cancel()
        refused_s = min(FIRST_S * 4 ** min(strikes - 1, 9), LONGEST_S)
        self._refused[address] = loop.call_later(refused_s, self._let_in, address)
        self._change()
        self._log.warning(
            "corrupt pieces came from %s; refusing connections with it for %d min",
            address,
            refused_s // 60,
        )

    def _strike(self, address: str, now: float) -> int:
        """Count one; returns how many there were of late."""
        before, at = self._strikes.pop(address, (0, now))
        strikes = 1 if now - at > _FORGOTTEN_S else before + 1
        self._strikes[address] = strikes, now
        if len(self._strikes) > _KNOWN:
            del self._strikes[next(iter(self._strikes))]
        return strikes

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
