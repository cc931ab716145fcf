"""`aitorrentctl nat relays`: reservations and circuits, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from aitorrentd.cli import toolkit

_HELP: Final = (
    "Show the relays of this node, and what it relays for others.\n\nA relay passes encrypted bytes"
    " between two nodes, of which nobody can dial one. Peers reach this node through the relays"
    " where it HOLDS a reservation; others are reached through this node if they were GIVEN one."
)


def register(group: typer.Typer) -> None:
    """Add the command to `aitorrentctl nat`."""
    examples = toolkit.examples("nat relays", "nat relays --json")
    group.command("relays", help=_HELP, epilog=examples)(relays)


def relays() -> None:
    """Show relays."""
    with toolkit.connect() as client:
        reply = client.call("nat.relays")
    toolkit.emit(reply, _render)


def _render(reply: Mapping[str, Any]) -> str:
    parts = [_held(reply), _given(reply), _circuits(reply)]
    return "\n\n".join(part for part in parts if part)


def _held(reply: Mapping[str, Any]) -> str:
    if not reply["held"]:
        wanted = "No relay yet" if reply["needed"] else "This node needs no relay"
        problems = [
            f"  {toolkit.short(peer)}: {toolkit.clean(text)}"
            for peer, text in reply["problems"].items()
        ]
        return "\n".join([f"{wanted}.", *(problems if reply["needed"] else ())])
    rows = [
        {
            **row,
            "state": "held" if row["live"] else "asked",
            "address": row["addresses"][0] if row["addresses"] else "-",
            "limit": _limit(row),
        }
        for row in reply["held"]
    ]
    return toolkit.table(
        rows,
        [
            ("relay", "HELD AT", toolkit.short),
            ("state", "STATE"),
            ("expires_s", "EXPIRES IN", _duration),
            ("limit", "LIMIT PER PAIR"),
            ("circuits", "CIRCUITS"),
            ("address", "ADDRESS OF THIS NODE"),
        ],
        drop=("address",),  # aitorrentctl id shows it, too
    )


def _limit(row: Mapping[str, Any]) -> str:
    if row["rate"] is None:
        return "-"
    rate = toolkit.bytes_text(row["rate"])
    return f"{rate}/s, {toolkit.bytes_text(row['bytes_per_hour'])} per hour"


def _given(reply: Mapping[str, Any]) -> str:
    if reply["relaying"]:
        return f"This node relays for nobody: {toolkit.clean(reply['relaying'])}."
    if not reply["given"]:
        return "This node relays for others; none has asked yet."
    return toolkit.table(
        reply["given"],
        [
            ("client", "GIVEN TO", toolkit.short),
            ("host", "HOST"),
            ("connected", "CONNECTED"),
            ("expires_s", "EXPIRES IN", _duration),
            ("circuits", "CIRCUITS"),
        ],
    )


def _circuits(reply: Mapping[str, Any]) -> str:
    if not reply["circuits"]:
        return ""
    return toolkit.table(
        reply["circuits"],
        [
            ("dialer", "FROM", toolkit.short),
            ("target", "TO", toolkit.short),
            ("passed", "PASSED", toolkit.bytes_text),
            ("pair_left", "LEFT THIS HOUR", toolkit.bytes_text),
            ("age_s", "AGE", toolkit.duration_text),
        ],
    )


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else toolkit.duration_text(max(0.0, seconds))
