"""`discovery`: how peers are found, on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"discovery": "Show how peers are found"}
_STATS: Final = (
    "Show what discovery has and does.\n\nCANDIDATES are peers to dial: on the local network,"
    " dialled before, or only heard of. Records are what other nodes signed about themselves."
)
_PEERS: Final = (
    "Show the peers that were found, connected or not.\n\nFOUND says how: lan, dialled (this node"
    " reached it before) or heard. STANDING is 1 for a stranger; it decides who is dialled first"
    " and is no threat score, which `aitorrentctl trust` shows."
)


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        help=f"{COMMANDS['discovery']}.",
        no_args_is_help=True,
        epilog=toolkit.examples("discovery stats", "discovery peers"),
    )
    group.command(
        "stats", help=_STATS, epilog=toolkit.examples("discovery stats", "discovery stats --json")
    )(stats)
    group.command(
        "peers", help=_PEERS, epilog=toolkit.examples("discovery peers", "discovery peers --json")
    )(peers)
    app.add_typer(group, name="discovery")


_COUNTS: Final[Sequence[tuple[str, Sequence[tuple[str, str]]]]] = (
    ("dials", (("dials", "begun"), ("failed_dials", "failed"))),
    (
        "announcements",
        (
            ("services", "heard"),
            ("services_foreign", "of other networks"),
            ("services_off_link", "without an address on the link"),
            ("services_unresolved", "without details"),
            ("services_dropped", "dropped: too many at once"),
        ),
    ),
    (
        "records heard",
        (
            ("new", "new"),
            ("updated", "updated"),
            ("known", "known already"),
            ("stale", "outdated"),
            ("own", "of this node"),
            ("crowded", "without room"),
        ),
    ),
    (
        "records refused",
        (
            ("malformed", "malformed"),
            ("forged", "forged"),
            ("too_long", "that last too long"),
            ("foreign_network", "of other networks"),
            ("expired", "expired"),
            ("future", "from the future"),
            ("inflated", "with too many hops"),
        ),
    ),
    ("records sent", (("sent", "to peers"),)),
    (
        "exchanges failed",
        (
            ("unanswered", "without an answer"),
            ("refused", "of peers that broke the rules"),
            ("too_often", "that came too often"),
            ("faults", "with a breach of the rules"),
        ),
    ),
)
"What the names of the counters mean, in groups."


def stats() -> None:
    """Show what discovery has and does."""
    with toolkit.connect() as client:
        reply = client.call("discovery.stats")
    toolkit.emit(reply, _render_stats)


def _render_stats(reply: Mapping[str, Any]) -> str:
    counts = reply["counts"]
    ahead_s = reply["clock_ahead_s"]
    rows: list[tuple[str, Any]] = [
        ("dialled", f"{reply['outbound']} of {reply['outbound_wanted']} wanted"),
        ("candidates", ", ".join(f"{n} {kind}" for kind, n in reply["candidates"].items())),
        ("records", reply["records"]),
        ("own record", reply["addresses"] or "none: this node has no address to tell"),
        ("local network", reply["local_network"]),
        ("gossip", "on" if reply["gossip"] else "off"),
        (
            "exchanges",
            f"{counts.get('exchanges', 0)} started here, {counts.get('answered', 0)} by peers",
        ),
        ("clock", _clock_text(ahead_s)),
    ]
    rows += [
        (label, ", ".join(f"{counts[name]} {text}" for name, text in texts if name in counts))
        for label, texts in _COUNTS
    ]
    return toolkit.fields((name, value or "-") for name, value in rows)


def _clock_text(ahead_s: float | None) -> str:
    if ahead_s is None:
        return "unknown"
    if abs(ahead_s) < 0.1:
        return "agrees with the peers'"
    return f"{abs(ahead_s):.1f} s {'behind' if ahead_s > 0 else 'ahead of'} the peers'"


def peers() -> None:
    """Show the peers that were found."""
    with toolkit.connect() as client:
        reply = client.call("discovery.peers")
    toolkit.emit(reply, _render_peers)


def _render_peers(reply: Mapping[str, Any]) -> str:
    rows = [
        {
            **row,
            "address": row["addresses"][0] if row["addresses"] else "-",
            "retry": toolkit.duration_text(row["retry_s"]) if row["retry_s"] else "-",
        }
        for row in reply["peers"]
    ]
    if not rows:
        return "No peer was found yet."
    columns: list[toolkit.Column] = [
        ("id", "PEER", toolkit.short),
        ("connected", "CONNECTED"),
        ("found", "FOUND"),
        ("address", "ADDRESS", toolkit.short_ids),
        ("standing", "STANDING"),
        ("failed_dials", "FAILED"),
        ("retry", "RETRY IN"),
    ]
    return toolkit.table(rows, columns, drop=("retry", "failed_dials"))
