"""Whether others can ask this node, from what they see and from who asks.

Behind a NAT a node is asked only by nodes that it sent to a moment ago. So a node that is seen at
an address that is not its own takes part as a client, which nobody keeps in a table, unless
requests arrive from hosts to which it sent nothing (a forwarded port, or a NAT that lets everybody
in). To find that out it must be known: it is a server for a while at first, and again every two
hours, unless it is known from elsewhere that strangers' datagrams are kept out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Final, Literal

from aitorrent_dht.core.contact import subnet_of

Mode = Literal["auto", "server", "client"]

TRIAL_S: Final = 900.0
TRIAL_EVERY_S: Final = 7200.0
EVIDENCE_S: Final = 3600.0
"How long a request from a stranger proves that strangers get through."
MAPPING_S: Final = 180.0
"A NAT forgets a mapping that is not used for so long (RFC 4787, REQ-5: at least 2 minutes)."
WITNESSES: Final = 3
"Networks that must see this node at another address than its own."
_REMEMBERED: Final = 1024


class Reachability:
    """Evidence, and the role that follows from it. No I/O; callers pass `now`."""

    def __init__(self, mode: Mode, now: float) -> None:
        self.mode = mode
        self.is_closed = False
        "Whether the NAT or firewall is known to keep strangers' datagrams out."
        self.asked_at: float | None = None
        "When a stranger's request last arrived."
        self._own: frozenset[str] = frozenset()
        self._seen_as: OrderedDict[str, str] = OrderedDict()
        self._sent_at: OrderedDict[str, float] = OrderedDict()
        self._trial_at = now

    def is_own(self, hosts: Collection[str]) -> None:
        """Learn this node's own addresses."""
        self._own = frozenset(hosts)

    def sent(self, host: str, now: float) -> None:
        """Note that a datagram went to `host`."""
        self._sent_at[host] = now
        self._sent_at.move_to_end(host)
        if len(self._sent_at) > _REMEMBERED:
            self._sent_at.popitem(last=False)

    def asked(self, host: str, now: float) -> None:
        """Note a verified request from `host`."""
        last = self._sent_at.get(host)
        if last is None or now - last > MAPPING_S:
            self.asked_at = now

    def observed(self, teller: str, host: str) -> None:
        """Note that the node at `teller` sees this one at `host`; one voice for each network."""
        voice = subnet_of(teller) or teller
        self._seen_as[voice] = host
        self._seen_as.move_to_end(voice)
        if len(self._seen_as) > 16:
            self._seen_as.popitem(last=False)

    def seen_at(self) -> str:
        """The address at which most networks see this node; empty while too few told."""
        if len(self._seen_as) < WITNESSES:
            return ""
        host, votes = Counter(self._seen_as.values()).most_common(1)[0]
        return host if 2 * votes > len(self._seen_as) else ""

    @property
    def is_translated(self) -> bool:
        """Whether this node is behind a NAT, as far as it knows."""
        return bool(self._own) and bool(seen := self.seen_at()) and seen not in self._own

    def is_client(self, now: float) -> bool:
        """Whether this node is to keep out of others' tables."""
        if self.mode != "auto":
            return self.mode == "client"
        if not self.is_closed and not self.is_translated:
            return False
        if self.asked_at is not None and now - self.asked_at < EVIDENCE_S:
            return False
        if self.is_closed:
            return True
        if now - self._trial_at >= TRIAL_EVERY_S:
            self._trial_at = now
        return now - self._trial_at >= TRIAL_S
