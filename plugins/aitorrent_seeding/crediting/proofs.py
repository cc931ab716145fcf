"""Proofs that a node is at the other end of a BitTorrent connection.

Both ends of a connection name themselves by a peer id of 20 bytes, which is random and new for
(nearly) each connection. A node proves that it has a connection by a hash under both peer ids, as
it sees them, of its own node id, the node that it proves it to, and the torrent. Whoever gets a
proof can neither show it to others nor learn the peer ids from it, and another node cannot make one
of its own, even if it knows the address, the port and the torrent.

Somebody who passes the handshakes of two nodes on to each other stands between them. So a proof
counts only for connections with the address that the prover's channel has.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from typing import Final

from aitorrent_seeding.session.links import Link
from aitorrentd.api import PeerId

LENGTH: Final = 16
MOST: Final = 1024
"Proofs at once."
_PURPOSE: Final = b"ait-transfers"


def proof(prover: PeerId, judge: PeerId, info_hash: str, *, own: bytes, other: bytes) -> bytes:
    """A proof by `prover` for `judge`; `own` and `other` are the peer ids, of the prover first."""
    text = f"{prover} {judge} {info_hash}".encode()
    return hashlib.blake2b(text, digest_size=LENGTH, key=own + other, person=_PURPOSE).digest()


def proofs_for(
    judge: PeerId, links: Iterable[Link], *, prover: PeerId, info_hash: str
) -> list[bytes]:
    """Proofs of all of these connections; a judge finds those that it has an end of."""
    made = [
        proof(prover, judge, info_hash, own=own, other=link.name)
        for link in links
        if link.has_met
        for own in link.own_names
    ]
    return made[:MOST]


def bind(
    prover: PeerId,
    given: frozenset[bytes],
    links: Iterable[Link],
    *,
    judge: PeerId,
    host: str,
    info_hash: str,
) -> int:
    """Note the node of each connection that `prover` has proven; returns how many those are.

    `host` is the address of the prover's channel. A connection whose node is known keeps it.
    """
    found = 0
    for link in links:
        if not link.has_met or link.node not in (None, prover) or not _is_at(link, host):
            continue
        own_names = link.own_names
        proofs = (proof(prover, judge, info_hash, own=link.name, other=own) for own in own_names)
        if any(one in given for one in proofs):
            link.node = prover
            found += 1
    return found


def _is_at(link: Link, host: str) -> bool:
    try:
        return _plain(link.place[0]) == _plain(host)
    except ValueError:
        return False


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address
