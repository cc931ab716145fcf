"""The proxy for a URL, from the environment, as curl and Go choose it. No I/O.

httpx reads the environment itself, but sends requests for this machine through the proxy, ignores
networks in `NO_PROXY`, and fails on entries that it cannot parse.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The URL of the proxy for `url`, or None.

    Looks at `HTTP_PROXY` or `HTTPS_PROXY`, then `ALL_PROXY`, in lower case first. None for hosts in
    `NO_PROXY` and for this machine, which a proxy would look for at its own place.
    """
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or _port_of(parts.scheme)
    if _is_here(host):
        return None
    listed = _value("no_proxy", environment).split(",")
    if any(_names(entry.strip().lower(), host, port) for entry in listed):
        return None
    proxy = _value(f"{parts.scheme}_proxy", environment) or _value("all_proxy", environment)
    if not proxy:
        return None
    # Desktops write `socks:`, which means version 5.
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    return proxy.replace("socks://", "socks5://", 1)


def shown(proxy: str) -> str:
    """The proxy's address without a password."""
    address = proxy.partition("://")[2] or proxy
    return address.rpartition("@")[2].rstrip("/")


def _value(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name, "").strip() or environment.get(name.upper(), "").strip()


def _port_of(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `NO_PROXY` means the host: a name with its subdomains, an address, a
    network, or all (`*`); a port restricts it."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, its_port = entry.rpartition(":")
    if colon and its_port.isdecimal():
        if int(its_port) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").removeprefix(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))
