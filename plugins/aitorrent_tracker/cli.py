"""`tracker`: the BitTorrent tracker of this node, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"tracker": "Show the BitTorrent tracker of this node"}
_STATS: Final = (
    "Show what the tracker keeps and did.\n\nThe plugin is off unless"
    " plugins.tracker.enabled is true. Counts of events start with the plugin."
)


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        help=f"{COMMANDS['tracker']}.",
        no_args_is_help=True,
        epilog=toolkit.examples("tracker stats"),
    )
    group.command(
        "stats", help=_STATS, epilog=toolkit.examples("tracker stats", "tracker stats --json")
    )(stats)
    app.add_typer(group, name="tracker")


def stats() -> None:
    """Show what the tracker keeps and did."""
    with toolkit.connect() as client:
        reply = client.call("tracker.stats")
    toolkit.emit(reply, _render_stats)


def _render_stats(reply: Mapping[str, Any]) -> str:
    listed = f"{reply['listed']} listed torrents, {reply['published']} files of the catalogue"
    serves = "every torrent" if reply["open"] else listed
    rows: list[tuple[str, Any]] = [
        ("listening", reply["listening"]),
        ("serves", f"{serves}, {'to holders of a key' if reply['private'] else 'to everyone'}"),
        ("swarms", reply["swarms"]),
        ("peers", f"{reply['seeds']} seeds, {reply['leechers']} leechers"),
        ("completed", reply["completed"]),
        ("expired", reply["expired"]),
        ("not stored", reply["unlisted"]),
        ("connections", reply["connections"]),
    ]
    rows += [(name.replace("_", " "), n) for name, n in reply["counts"].items()]
    return toolkit.fields(rows)
