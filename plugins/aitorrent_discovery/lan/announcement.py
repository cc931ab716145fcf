"""What a node says of itself by mDNS, and what it makes of what others say. No I/O.

A service `_aitorrentd._tcp.local.` with a TXT record (RFC 6763, section 6): `id`, the peer id, and
`net`, which stands for the network id. Anybody on the link can announce anything: an announcement
only leads to a dial, whose handshake proves the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aitorrent_discovery.records.codec import network_tag
from aitorrent_discovery.records.places import ip_of, on_link
from aitorrentd.api import InvalidParams, PeerId, parse_peer_id
from aitorrentd.api.network.addresses import Address, address_of, is_loopback, parse_address

SERVICE: Final = "_aitorrentd._tcp.local."
VERSION: Final = "1"
_TAG_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Announcement:
    """What this node announces."""

    hosts: tuple[str, ...]
    "IP addresses on the attached networks."
    port: int


def tag_text(network: str) -> str:
    """The network id in a TXT record."""
    return network_tag(network).hex()[:_TAG_CHARS]


def announcement(addresses: Sequence[str], networks: Sequence[str]) -> Announcement | None:
    """What to announce for a node that listens on `addresses`; None if nobody here can reach it."""
    listened = [parse_address(text) for text in addresses]
    reachable = on_link(listened, networks)
    if not reachable:
        return None
    port = reachable[0].port
    return Announcement(tuple(a.host for a in reachable if a.port == port), port)


def listens_on_loopback_only(addresses: Sequence[str]) -> bool:
    """Whether no other machine can reach a node with these addresses."""
    places = map(parse_address, addresses)
    return all(is_loopback(place.host) for place in places if place.relay is None)


def txt(peer: PeerId, network: str) -> dict[str, str]:
    """The TXT record."""
    return {"v": VERSION, "id": peer, "net": tag_text(network)}


def announced(
    properties: Mapping[bytes, bytes | None],
    hosts: Iterable[str],
    port: int,
    *,
    network: str,
    networks: Sequence[str],
) -> tuple[PeerId, tuple[Address, ...]] | None:
    """The peer that a service stands for, and where to dial it; None if it is none of ours.

    Only addresses on an attached network count: nothing that is heard on the link makes this node
    send anything beyond it.
    """
    fields = {key.lower(): value or b"" for key, value in properties.items()}
    if fields.get(b"v") != VERSION.encode() or fields.get(b"net") != tag_text(network).encode():
        return None
    try:
        peer = parse_peer_id(fields.get(b"id", b"").decode("ascii"))
    except ValueError:
        return None
    found = []
    for host in hosts:
        try:
            if ip_of(host) is not None:
                found.append(address_of(host, port, peer))
        except InvalidParams:
            continue
    return peer, on_link(found, networks)
