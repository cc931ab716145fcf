"""Terms of punching sessions, for tests of their messages and their course."""

from __future__ import annotations

from typing import Any

from aitorrent_nat.punch.candidates import Candidate, Kind
from aitorrent_nat.punch.messages import KEY_BYTES, Terms
from aitorrent_nat.punch.plan import Behaviour, Nat

PUBLIC = Nat(Behaviour.INDEPENDENT, Behaviour.INDEPENDENT)
KINDS: dict[str, Nat] = {
    "public": PUBLIC,
    "fullcone": PUBLIC,
    "addrrestricted": Nat(Behaviour.INDEPENDENT, Behaviour.ADDRESS),
    "portrestricted": Nat(Behaviour.INDEPENDENT, Behaviour.PORT),
    "symmetric": Nat(Behaviour.PORT, Behaviour.PORT),
}


def terms(host: str = "11.1.0.2", nat: str = "portrestricted", **changes: Any) -> Terms:
    """Terms of a node behind a NAT of this kind at `host`."""
    fields: dict[str, Any] = {
        "nat": KINDS[nat],
        "candidates": (
            Candidate(Kind.TCP, host, 40_001),
            Candidate(Kind.UDP, host, 40_002),
            Candidate(Kind.MANY, host, 40_003),
        ),
        "user": "abcd",
        "password": "p" * 22,
        "key": host.encode().ljust(KEY_BYTES, b"."),
    }
    return Terms(**{**fields, **changes})
