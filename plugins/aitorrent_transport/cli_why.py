"""The command `aitorrentctl peers why`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from aitorrentd.cli import toolkit


def register(group: typer.Typer) -> None:
    """Add `why` to the group of `peers`."""
    group.command(epilog=toolkit.examples("peers why oXHyf3Hs"))(why)


def why(
    peer: Annotated[str, typer.Argument(help="A peer id or its last characters.", metavar="PEER")],
) -> None:
    """Explain how a peer is connected, with every attempt.

    Attempts are kept for 24 hours, and until the daemon stops.
    """
    with toolkit.connect() as client:
        reply = client.call("transport.why", {"peer": peer})
    toolkit.emit(reply, _why_text)


def _why_text(reply: Mapping[str, Any]) -> str:
    head = f"{toolkit.short(reply['id'])}: {toolkit.clean(reply['summary'])}"
    if not reply["attempts"]:
        return head
    rows = [
        {
            **row,
            "at": datetime.fromtimestamp(row["at"]).strftime("%Y-%m-%d %H:%M:%S"),
            "where": row["where"] or "-",
            "outcome": row["outcome"] + (", in use" if row["in_use"] else ""),
        }
        for row in reply["attempts"]
    ]
    table = toolkit.table(
        rows,
        [
            ("at", "TIME"),
            ("way", "WAY"),
            ("where", "ADDRESS", toolkit.short_ids),
            ("took_s", "TOOK", toolkit.ms_text),
            ("outcome", "RESULT"),
        ],
        drop=("took_s", "at"),
    )
    return f"{head}\n\n{table}"
