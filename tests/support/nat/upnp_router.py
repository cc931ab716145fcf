"""A NAT box of the lab as a router that forwards ports on request: the real miniupnpd in it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.nat.lab import Nat
from tests.support.nat.namespaces import nft, run

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
