"""Peer records for tests, honest and hostile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from aitorrent_discovery.gossip.book import Book, Item
from aitorrent_discovery.gossip.core import Gossip
from aitorrent_discovery.peers.standing import Standings
from aitorrent_discovery.records.codec import DOMAIN, PeerRecord, network_tag, sign_record
from aitorrentd.api import PeerId, pack
from tests.support.clocks import FakeClock
from tests.support.transport.transport_nodes import Identity

NETWORK = "test"
TAG = network_tag(NETWORK)
NOW = 1_700_000_000.0
GLOBAL = "/ip4/8.8.4.4/tcp/8468"


def record(
    seed: str,
    *,
    addresses: Sequence[str] = (GLOBAL,),
    now: float = NOW,
    sequence: int | None = None,
    network: str = NETWORK,
    lifetime_s: int = 7200,
) -> PeerRecord:
    """The record of the node with the key of `seed`."""
    if sequence is None:
        sequence = int(now * 1000)
    return sign_record(
        Identity(seed), network, addresses, sequence=sequence, now=now, lifetime_s=lifetime_s
    )


def fields(seed: str, **changes: Any) -> dict[str, Any]:
    """What a record of that node says, with `changes`."""
    honest: dict[str, Any] = {
        "v": 1,
        "key": Identity(seed).public_key,
        "seq": int(NOW * 1000),
        "issued": int(NOW),
        "expires": int(NOW) + 7200,
        "net": TAG,
        "addresses": [GLOBAL],
        "caps": [],
    }
    return {**honest, **changes}


def signed(seed: str, body: bytes) -> bytes:
    """`body` with the signature of that node."""
    return Identity(seed).sign(DOMAIN, body) + body


def raw(seed: str, **changes: Any) -> bytes:
    """A validly signed record that says whatever `changes` say."""
    return signed(seed, pack(fields(seed, **changes)))


def peer(seed: str) -> PeerId:
    return Identity(seed).peer_id


def item(seed: str, hops: int = 2, **options: Any) -> Item:
    return Item(hops, record(seed, **options).raw)


def book(seed: str = "me", **options: Any) -> Book:
    return Book(peer(seed), TAG, **options)


def gossip(
    seed: str = "me",
    clock: FakeClock | None = None,
    addresses: Sequence[str] = (GLOBAL,),
    **options: Any,
) -> Gossip:
    """A node's gossip on a clock that stands at `NOW`."""
    source = random.Random(seed)
    clock = clock or FakeClock()
    return Gossip(
        Identity(seed),
        NETWORK,
        lambda: addresses,
        Standings(source.random),
        clock,
        source,
        **options,
    )
