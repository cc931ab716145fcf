"""How sizes and node ids are displayed.

Standard library only: the command line starts with it.
"""

from __future__ import annotations


def bytes_text(n: float) -> str:
    """Bytes with a binary unit: `1.5 MiB`."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} PiB"


def short(peer: str) -> str:
    """The last eight characters of a peer id, enough to tell one network's nodes apart."""
    return "…" + peer[-8:]


def short_ids(address: str) -> str:
    """An address in which each peer id is shortened: one through a relay fits a table."""
    head, *rest = address.split("/p2p/")
    parts = [each.partition("/") for each in rest]
    return head + "".join(f"/p2p/{short(peer)}{slash}{tail}" for peer, slash, tail in parts)


def called(peer: str, name: str) -> str:
    """A node as shown in lists: its shortened id, then its self-chosen name in quotes."""
    name = name.replace('"', "'")
    return f'{short(peer)} "{name}"' if name else short(peer)
