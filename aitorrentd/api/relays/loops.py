"""Requests that come back to a node which they left: the server of a backend is the node's own API,
or that of another node whose backend leads back.

A relay names its node in each request to a server nearby, after those that the request it answers
has passed already. A node that finds its own id in a request refuses it.
"""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-aitorrent-node"
"The ids of the nodes that a request passed, the first first, with commas between."
MAX_NODES: Final = 16
"A request that passed more is refused, too."
_MAX_CHARS: Final = 2048
_passed: ContextVar[tuple[str, ...]] = ContextVar("passed", default=())


def nodes_in(header: str) -> tuple[str, ...]:
    """The nodes that a header names."""
    return tuple(filter(None, (part.strip() for part in header[:_MAX_CHARS].split(","))))


def returns(nodes: tuple[str, ...], node: str) -> bool:
    """Whether a request that passed `nodes` came back to `node`, or goes round elsewhere."""
    return node in nodes or len(nodes) > MAX_NODES


def note(nodes: tuple[str, ...]) -> None:
    """From now on, requests that this task and its children send name `nodes`, too."""
    _passed.set(nodes)


def passed() -> tuple[str, ...]:
    """The nodes that the request has passed which this task answers."""
    return _passed.get()


def header_of(node: str) -> str:
    """What a request names that `node` sends now."""
    return ",".join((*_passed.get(), node))


def is_nearby(host: str) -> bool:
    """Whether a host may be a node of one's own, and not a service on the internet, which is to
    learn no ids: a private address, or a name without a dot."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal", ".home.arpa"))
