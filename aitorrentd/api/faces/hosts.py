"""Host and Origin of a request: whether a page in a browser could have forged it. No I/O.

A page can make a name of its own lead to this machine (DNS rebinding), or send a request across
sites. It cannot do the first with an IP address as the host, nor the second without saying so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container
from functools import lru_cache
from typing import Final

_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d{1,5})?", re.ASCII)
_LONGEST: Final = 64
"Characters of an address, with a zone and brackets."
LOCAL: Final = ("localhost", "host.docker.internal", "host.containers.internal")
"This machine: the last two are its names inside Docker's and Podman's containers."


def host_of(header: str) -> str:
    """The name or address in a Host header, in lower case and without port; empty if it is none."""
    match = _HOST.fullmatch(header)
    return match[1].lower().rstrip(".") if match else ""


def is_own(host: str, names: Container[str]) -> bool:
    """Whether a host is an IP address, this machine, or one of `names`."""
    if _address(host) is not None:
        return True
    return bool(host) and (host in LOCAL or host in names)


def is_loopback(host: str) -> bool:
    """Whether a host is localhost or a loopback address."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    return _parsed(host) if len(host) <= _LONGEST else None


@lru_cache(128)
def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
