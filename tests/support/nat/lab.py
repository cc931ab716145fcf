"""An internet of network namespaces: public hosts, NAT boxes of every kind, hosts behind them.

    with lab() as net:
        mirror = net.public()
        a, b = net.place("portrestricted"), net.place("symmetric")
        with net.cut(a, b): ...

One namespace routes between all public addresses, each of which is in a /16 of its own; packets to
any other address vanish in it. Addresses look public but exist in the namespaces alone. The network
card of every host is `e0`. Needs root, iproute2 and nftables.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.nat.namespaces import (
    Namespaces,
    ip,
    namespaces,
    nft,
    run,
    socket_in,
    sysctl,
)
from tests.support.nat.rules import UDP_S, ruleset

_CUTS: Final = """
table ip cuts {
 set pairs { type ipv4_addr . ipv4_addr; }
 set deaf { type ipv4_addr; }
 chain through { type filter hook forward priority filter;
  ip saddr . ip daddr @pairs drop;
  ip saddr @deaf drop;
  ip daddr @deaf drop; }
}
"""


@dataclass(frozen=True, slots=True)
class Nat:
    """A NAT box: `wan` leads to the internet or to a carrier's NAT, `lan` to its hosts."""

    namespace: str
    kind: str
    outside: str
    "Its own address on the side of the internet: private behind a carrier's NAT."
    inside: str
    "Its address for the hosts behind it, whose gateway it is."
    behind: Nat | None = None
    hosts: list[str] = field(default_factory=list)
    "Addresses behind it."

    @property
    def public(self) -> str:
        """The address that the internet sees."""
        return self.behind.public if self.behind else self.outside

    def forget(self) -> None:
        """Lose every mapping and hole, as after a power cut."""
        command = ["ip", "netns", "exec", self.namespace]
        run(*command, "conntrack", "-F")
        if self.kind in ("fullcone", "addrrestricted"):
            run(*command, "nft", "flush", "map", "ip", "nat", "holes")


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with one network card, `e0`."""

    namespace: str
    address: str
    nat: Nat | None = None
    others: tuple[str, ...] = ()
    "Further addresses of a public host."

    @property
    def kind(self) -> str:
        """`public`, or the kind of the NAT in front of it."""
        return self.nat.kind if self.nat else "public"

    @property
    def public(self) -> str:
        """The address from which the internet sees it."""
        return self.nat.public if self.nat else self.address

    def socket(self, kind: socket.SocketKind, port: int = 0) -> socket.socket:
        """A socket of the test process that lives on this host, bound to `port`; close it."""
        sock = socket_in(self.namespace, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        return sock

    def down(self) -> None:
        """Pull the cable."""
        ip("-n", self.namespace, "link", "set", "e0", "down")

    def up(self) -> None:
        """Plug it in again."""
        ip("-n", self.namespace, "link", "set", "e0", "up")
        gateway = self.nat.inside if self.nat else Lab.GATEWAY
        _route(self.namespace, gateway, "e0")


class Lab:
    """The internet, and what is attached to it so far."""

    GATEWAY: Final = "169.254.1.1"
    "Where every public machine sends its packets; it answers on each cable."

    def __init__(self, made: Namespaces) -> None:
        self._made = made
        self._publics = 0
        self._lans = 0
        self._core = made.make()
        sysctl(self._core, "net.ipv4.ip_forward=1")
        # Strangers' private addresses lead nowhere, and nobody says so.
        ip("-n", self._core, "route", "add", "blackhole", "default")
        nft(self._core, _CUTS)

    def public(self, addresses: int = 1) -> Host:
        """A host with public addresses, each in a /16 of its own, and no NAT."""
        name = self._made.make()
        first, *others = [self._next_public() for _ in range(addresses)]
        self._attach(name, "e0", first, *others)
        return Host(name, first, others=tuple(others))

    def nat(self, kind: str, *, behind: Nat | None = None, udp_s: int = UDP_S, **how: Any) -> Nat:
        """A NAT box, at a public address or at one of the carrier `behind` which it stands.

        `how` is as in `rules.ruleset`.
        """
        name = self._made.make()
        sysctl(
            name,
            "net.ipv4.ip_forward=1",
            f"net.netfilter.nf_conntrack_udp_timeout={udp_s}",
            f"net.netfilter.nf_conntrack_udp_timeout_stream={udp_s}",
        )
        if behind is None:
            outside = self._next_public()
            self._attach(name, "wan", outside)
        else:
            outside = self._plug(behind, name, "wan")
        self._lans += 1
        inside = f"192.168.{self._lans}.1"
        ip("-n", name, "link", "add", "lan", "type", "bridge")
        ip("-n", name, "addr", "add", f"{inside}/24", "dev", "lan")
        ip("-n", name, "link", "set", "lan", "up")
        nft(name, ruleset(kind, outside, udp_s=udp_s, **how))
        return Nat(name, kind, outside, inside, behind)

    def carrier(self, kind: str = "portrestricted", **how: Any) -> Nat:
        """A NAT for boxes to stand behind; its side of them is 192.168.N.0/24 as well."""
        return self.nat(kind, **how)

    def host(self, nat: Nat) -> Host:
        """A host behind a NAT box."""
        name = self._made.make()
        return Host(name, self._plug(nat, name, "e0"), nat)

    def place(self, kind: str, **how: Any) -> Host:
        """A public host, or a host behind a NAT box of its own; `how` as in `rules.ruleset`."""
        return self.public() if kind == "public" else self.host(self.nat(kind, **how))

    @contextmanager
    def cut(self, a: Host, b: Host) -> Iterator[None]:
        """While the block runs, every packet between the public addresses of two hosts vanishes."""
        if a.public == b.public:
            raise ValueError("both are behind the same public address")
        pairs = f"{{ {a.public} . {b.public}, {b.public} . {a.public} }}"
        nft(self._core, f"add element ip cuts pairs {pairs}")
        try:
            yield
        finally:
            nft(self._core, f"delete element ip cuts pairs {pairs}")

    @contextmanager
    def offline(self, host: Host) -> Iterator[None]:
        """While the block runs, the internet loses every packet from and to a host's public
        address; its own link stays up."""
        nft(self._core, f"add element ip cuts deaf {{ {host.public} }}")
        try:
            yield
        finally:
            nft(self._core, f"delete element ip cuts deaf {{ {host.public} }}")

    def _next_public(self) -> str:
        self._publics += 1
        if self._publics > 250:
            raise ValueError("out of public networks")
        return f"11.{self._publics}.0.2"

    def _attach(self, name: str, card: str, *addresses: str) -> None:
        """A cable between a machine and the router of the internet."""
        port = f"p{addresses[0].split('.')[1]}"
        pair = ["type", "veth", "peer", "name", port, "netns", self._core]
        ip("-n", name, "link", "add", card, *pair)
        ip("-n", self._core, "addr", "add", f"{self.GATEWAY}/32", "dev", port)
        ip("-n", self._core, "link", "set", port, "up")
        ip("-n", name, "link", "set", card, "up")
        for address in addresses:
            ip("-n", name, "addr", "add", f"{address}/32", "dev", card)
            ip("-n", self._core, "route", "add", f"{address}/32", "dev", port)
        _route(name, self.GATEWAY, card)

    @staticmethod
    def _plug(nat: Nat, name: str, card: str) -> str:
        """A cable between a machine and a NAT box; returns the machine's address."""
        number = len(nat.hosts) + 2
        address = f"{nat.inside.rpartition('.')[0]}.{number}"
        nat.hosts.append(address)
        port = f"lan{number}"
        ip("-n", name, "link", "add", card, "type", "veth", "peer", port, "netns", nat.namespace)
        ip("-n", nat.namespace, "link", "set", port, "master", "lan", "up")
        ip("-n", name, "link", "set", card, "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", card)
        _route(name, nat.inside, card)
        return address


def _route(name: str, gateway: str, card: str) -> None:
    ip("-n", name, "route", "replace", "default", "via", gateway, "dev", card, "onlink")


@contextmanager
def lab() -> Iterator[Lab]:
    """An internet for the block; nothing of it is left afterwards."""
    with namespaces() as made:
        yield Lab(made)
