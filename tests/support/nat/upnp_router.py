"""A NAT box of the lab as a router that forwards ports on request: the real miniupnpd in it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.nat.lab import Nat
from tests.support.nat.namespaces import ip, namespaces, nft, run, sysctl

_CHAINS: Final = """
table inet upnp {
 chain pre { type nat hook prerouting priority dstnat; jump forwarded; }
 chain post { type nat hook postrouting priority srcnat + 1; jump sources; }
 chain through { type filter hook forward priority filter; jump allowed; }
 chain forwarded { }
 chain sources { }
 chain allowed { }
}
"""
_CONFIG: Final = """
ext_ifname=wan
listening_ip=lan
port=5000
enable_upnp={upnp}
enable_natpmp={pcp}
secure_mode=yes
system_uptime=no
min_lifetime=120
max_lifetime=86400
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=allowed
upnp_nat_chain=forwarded
upnp_nat_postrouting_chain=sources
uuid=66324e93-ea7b-46ef-a081-c1b319dcfd98
{allow} 1024-65535 192.168.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


class UpnpRouter:
    """miniupnpd in the namespace of a NAT box."""

    def __init__(self, nat: Nat, directory: Path, config: str) -> None:
        self._nat = nat
        self._config = directory / f"miniupnpd-{nat.namespace}.conf"
        self._config.write_text(config)
        self._pid_file = directory / f"miniupnpd-{nat.namespace}.pid"

    def start(self) -> None:
        """Start it, with no port forwarded."""
        nft(self._nat.namespace, f"table inet upnp {{ }}; delete table inet upnp; {_CHAINS}")
        # Not in debug mode (-d), in which it takes seconds to refuse a port.
        command = ["ip", "netns", "exec", self._nat.namespace, "miniupnpd"]
        run(*command, "-f", str(self._config), "-P", str(self._pid_file))

    def stop(self) -> None:
        """Stop it; whatever it forwarded is forgotten."""
        if self._pid_file.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._pid_file.read_text()), signal.SIGKILL)
            self._pid_file.unlink()

    def restart(self) -> None:
        """What a power cut does."""
        self.stop()
        self.start()

    def forwarded(self) -> str:
        """The rules of the ports that it forwards now."""
        command = ["ip", "netns", "exec", self._nat.namespace, "nft", "list", "chain"]
        return run(*command, "inet", "upnp", "forwarded")


class Site6(NamedTuple):
    """A machine with IPv6 behind a firewall that lets nobody in, and a stranger outside."""

    host: str
    "Its namespace."
    address: str
    stranger: str
    "The stranger's namespace."
    router: UpnpRouter


@contextmanager
def firewalled(directory: Path) -> Iterator[Site6]:
    """A site whose router opens its IPv6 firewall on request."""
    with namespaces() as net:
        router, host, stranger = net.make(), net.make(), net.make()
        off = ("all.disable_ipv6=0", "default.disable_ipv6=0", "default.accept_dad=0")
        for each in (router, host, stranger):
            sysctl(each, *(f"net.ipv6.conf.{setting}" for setting in off))
        sysctl(router, "net.ipv6.conf.all.forwarding=1")
        for inside, other in (("lan", host), ("wan", stranger)):
            ip("link", "add", inside, "netns", router, "type", "veth", "peer", "name", "e0",
               "netns", other)  # fmt: skip
            ip("-n", router, "link", "set", inside, "up")
            ip("-n", other, "link", "set", "e0", "up")
        for where, device, address in (
            (router, "lan", "192.168.1.1/24"),
            (router, "lan", "fe80::1/64"),
            (router, "lan", "2a01:db8:1::1/64"),
            (host, "e0", "192.168.1.2/24"),
            (host, "e0", "2a01:db8:1::2/64"),
            (router, "wan", "81.2.69.142/24"),
            (router, "wan", "2a01:db8:2::2/64"),
            (stranger, "e0", "2a01:db8:2::1/64"),
        ):
            ip("-n", where, "addr", "add", address, "dev", device)
        ip("-n", host, "route", "add", "default", "via", "fe80::1", "dev", "e0")
        ip("-n", stranger, "route", "add", "default", "via", "2a01:db8:2::2")
        ip("-n", router, "route", "add", "default", "via", "2a01:db8:2::1")
        nat = Nat(router, "firewall", "81.2.69.142", "192.168.1.1")
        text = _CONFIG.format(upnp="no", pcp="yes", allow="allow")
        opener = UpnpRouter(nat, directory, f"{text}ext_ifname6=wan\nipv6_disable=no\n")
        opener.start()
        for rule in ("ct state established,related accept", 'iifname "lan" accept', "drop"):
            nft(router, f"add rule inet upnp through {rule}")
        try:
            yield Site6(host, "2a01:db8:1::2", stranger, opener)
        finally:
            opener.stop()


@contextmanager
def upnp_router(
    nat: Nat, directory: Path, *, upnp: bool = True, pcp: bool = True, allows: bool = True
) -> Iterator[UpnpRouter]:
    """The NAT box forwards ports while the block runs; with `allows` false it refuses all."""

    def yes(value: bool) -> str:
        return "yes" if value else "no"

    text = _CONFIG.format(upnp=yes(upnp), pcp=yes(pcp), allow="allow" if allows else "deny")
    router = UpnpRouter(nat, directory, text)
    router.start()
    try:
        yield router
    finally:
        router.stop()
