"""Addresses of nodes: libp2p multiaddrs, and plain host:port.

/ip4/203.0.113.1/tcp/8468/p2p/12D3KooW…     /dns4/example.org/tcp/443/ws
/ip4/203.0.113.1/tcp/8468/p2p/RELAY/p2p-circuit/p2p/12D3KooW…     through a relay
203.0.113.1:8468                            [2001:db8::1]:8468
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from aitorrentd.api.ids import PeerId, is_peer_id, parse_peer_id
from aitorrentd.errors import InvalidParams

SUFFIX: Final = ".addr"
"Suffix of an address file: one address per line, as a daemon writes it."
MAX_ADDRESS_CHARS: Final = 400
"Longest address that is parsed, in characters."
Family = Literal["ip4", "ip6", "dns", "dns4", "dns6"]
"What the host of an address is, as a multiaddr names it."

_CIRCUIT: Final = "p2p-circuit"
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")
_PORT: Final = re.compile(r"[0-9]{1,5}\Z")
_LIKE_IP4: Final = re.compile(r"[0-9.]+\Z")
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
_NAMES: Final[dict[str, Family]] = {"dns": "dns", "dns4": "dns4", "dns6": "dns6"}


@dataclass(frozen=True, slots=True)
class Address:
    """An address to dial. `host` is a canonical IP address or a DNS name."""

    family: Family
    host: str
    port: int
    masked: bool = False
    "Whether the connection uses the WebSocket disguise."
    peer: PeerId | None = None
    "The peer to expect there, or None for any."
    relay: PeerId | None = None
    "The relay that listens on `host` and `port` and leads to the peer; None if the peer does."

    def __str__(self) -> str:
        tail = f"/p2p/{self.peer}" if self.peer else ""
        return f"{self.location}{tail}"

    @property
    def location(self) -> str:
        """The multiaddr without /p2p."""
        place = f"/{self.family}/{self.host}/tcp/{self.port}{'/ws' if self.masked else ''}"
        return f"{place}/p2p/{self.relay}/{_CIRCUIT}" if self.relay else place

    def of(self, peer: PeerId) -> Address:
        """The same address, expecting `peer` there."""
        return replace(self, peer=peer)


def parse_address(text: str) -> Address:
    """Parse `text` as an address.

    Raises:
        InvalidParams: not an address, or one that cannot be dialled; the message says which part is
        wrong.
    """
    if not isinstance(text, str) or not text:
        raise InvalidParams("the address is empty; write one such as 203.0.113.1:8468")
    if len(text) > MAX_ADDRESS_CHARS:
        raise InvalidParams(f"an address must have at most {MAX_ADDRESS_CHARS} characters")
    try:
        return _multiaddr(text) if text.startswith("/") else _host_port(text)
    except ValueError as e:
        raise InvalidParams(f"{text!r} is not an address: {e}") from None


def is_address_file(text: str) -> bool:
    """Whether `text` is the absolute path of an address file and not an address itself.

    Judged by its suffix, so that a misspelt multiaddr is not taken for a file yet to appear.
    """
    return text.startswith("/") and text.endswith(SUFFIX)


def host_port(host: str, port: int) -> str:
    """`HOST:PORT`, with IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether the host of an address always means the machine that dials it."""
    return host.startswith("127.") or host in ("::1", "localhost")


def address_of(host: str, port: int, peer: PeerId | None = None) -> Address:
    """The address for an IP `host` and `port`, as sockets report them.

    Raises:
        InvalidParams: not an IP address and port.
    """
    try:
        return Address(*_ip(host.partition("%")[0]), port=_port(str(port)), peer=peer)
    except ValueError as e:
        raise InvalidParams(f"{host!r} port {port}: {e}") from None


def _multiaddr(text: str) -> Address:
    parts = text[1:].split("/")
    if len(parts) < 4 or parts[2] != "tcp":
        other = parts[2] if len(parts) > 2 and parts[2] in ("udp", "quic", "quic-v1") else ""
        hint = f"{other} is not supported, only tcp" if other else "expected /ip4/HOST/tcp/PORT"
        raise ValueError(hint)
    kind, host, port = parts[0], parts[1], _port(parts[3])
    family: Family
    if kind in ("ip4", "ip6"):
        family, canonical = _ip(host)
        if family != kind and not (kind == "ip6" and family == "ip4"):
            raise ValueError(f"{host!r} is not an {kind} address")
    elif kind in _NAMES:
        family, canonical = _NAMES[kind], _name(host)
    else:
        raise ValueError(f"unknown part /{kind}; use /ip4, /ip6 or /dns")
    rest = parts[4:]
    masked = rest[:1] == ["ws"]
    if masked:
        rest = rest[1:]
    peer: PeerId | None = None
    relay: PeerId | None = None
    if rest[:1] == ["p2p"] and rest[2:3] == [_CIRCUIT]:
        relay = parse_peer_id(rest[1])
        rest = rest[3:]
    if rest[:1] == ["p2p"] and len(rest) == 2:
        peer = parse_peer_id(rest[1])
        rest = []
    if rest[:1] == [_CIRCUIT]:
        raise ValueError(f"/{_CIRCUIT} follows /p2p/RELAY, the id of the relay")
    if rest:
        end = rest[2:] if rest[0] == "p2p" and len(rest) > 2 else rest
        raise ValueError(f"unexpected /{'/'.join(end)} at the end")
    if relay is not None and relay == peer:
        raise ValueError("a peer cannot be its own relay")
    return Address(family, canonical, port, masked, peer, relay)


def _host_port(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon and is_peer_id(text):
        raise ValueError("it is a peer id, which does not say where the node is; write HOST:PORT")
    if not colon or not port:
        raise ValueError("the port is missing; write HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError("only IPv6 addresses take brackets")
    elif ":" in host:
        raise ValueError("write IPv6 in brackets: [HOST]:PORT")
    if ":" in host or _LIKE_IP4.match(host):
        return Address(*_ip(host), port=_port(port))
    return Address("dns", _name(host), _port(port))


def _port(text: str) -> int:
    if not _PORT.match(text) or not 1 <= int(text) <= 65_535:
        raise ValueError(f"port {text[:12]!r} is not a number from 1 to 65535")
    return int(text)


def _ip(text: str) -> tuple[Family, str]:
    if "%" in text:
        raise ValueError("addresses with a zone (%) are not supported")
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified:
        raise ValueError(f"{address} means all addresses; give a single one")
    if address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError(f"{address} is not a unicast address")
    return ("ip4" if address.version == 4 else "ip6"), str(address)


def _name(text: str) -> str:
    # The dot at the end of a fully qualified name is kept: it exempts it from search domains.
    name = text.lower()
    labels = name.removesuffix(".").split(".")
    if len(name) > 254 or not all(_LABEL.match(label) for label in labels):
        hint = "" if text.isascii() else "; write it in its ASCII form, which begins with xn--"
        raise ValueError(f"{text[:64]!r} is not a host name{hint}")
    if _NUMBER.match(labels[-1]):
        # Resolvers read 0x7f.1 as 127.0.0.1.
        raise ValueError(f"{text[:64]!r} is not a host name: its last part is a number")
    return name
