"""Elections among witnesses, some of which may lie. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final, TypeVar

from aitorrent_nat.networks import region_of

V = TypeVar("V", bound=Hashable)

WITNESSES: Final = 3
"Hosts that must say the same: fewer may be lying together."
REGIONS: Final = 2
"Networks (/16 or /32) that they must be in: one owner may have every host of one."
_WEIGHT: Final = 2
"Most votes of one network for one value, so that it cannot outvote the others."


def are_enough(hosts: Sequence[str]) -> bool:
    """Whether witnesses at these IP addresses are enough to believe what all of them say."""
    return len(set(hosts)) >= WITNESSES and len(set(map(region_of, hosts))) >= REGIONS


def elect(said: Sequence[tuple[str, V]]) -> V | None:
    """The value that most witnesses said, or None unless enough of them did.

    `said` has the IP address of each witness and its value; the last word of a witness counts.
    """
    by_host = dict(said)
    votes: Counter[V] = Counter()
    for (_, value), count in Counter((region_of(h), v) for h, v in by_host.items()).items():
        votes[value] += min(count, _WEIGHT)
    if not votes:
        return None
    value, most = votes.most_common(1)[0]
    supporters = [host for host, each in by_host.items() if each == value]
    return value if 2 * most > votes.total() and are_enough(supporters) else None
