"""Commands of `aitorrentctl` for bans and offences: `peers ban`, `peers unban`, `trust`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

_UNITS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
Subject = Annotated[
    str,
    typer.Argument(
        help="A peer id, its last characters, an IP address, or a network.", metavar="SUBJECT"
    ),
]


def register(group: typer.Typer) -> None:
    """Add `ban` and `unban` to the group of `peers`."""
    group.command(
        epilog=toolkit.examples(
            "peers ban oXHyf3Hs", 'peers ban 203.0.113.0/24 --for 7d --reason "port scans"'
        )
    )(ban)
    group.command(epilog=toolkit.examples("peers unban 203.0.113.0/24"))(unban)


def ban(
    subject: Subject,
    duration: Annotated[
        str,
        typer.Option(
            "--for", help="Duration of the ban, such as 90s, 10m, 12h or 7d.", metavar="TIME"
        ),
    ] = "1d",
    reason: Annotated[str, typer.Option(help="Reason for the ban; sent to the peer.")] = "",
) -> None:
    """Ban a peer, address or network temporarily.

    It is disconnected immediately. The ban persists across daemon restarts.
    """
    params = {"subject": subject, "seconds": _seconds(duration), "reason": reason}
    with toolkit.connect() as client:
        reply = client.call("transport.ban", params)
    toolkit.emit(
        reply,
        lambda r: f"banned {toolkit.clean(r['subject'])} for {toolkit.duration_text(r['left_s'])}",
    )


def unban(subject: Subject) -> None:
    """Lift a ban."""
    with toolkit.connect() as client:
        reply = client.call("transport.unban", {"subject": subject})
    toolkit.emit(reply, lambda r: f"{toolkit.clean(r['subject'])} is no longer banned")


def trust(
    peer: Annotated[str, typer.Argument(help="A peer id or its last characters.", metavar="PEER")],
) -> None:
    """Show a peer's offences and threat score."""
    with toolkit.connect() as client:
        reply = client.call("transport.trust", {"peer": peer})
    toolkit.emit(reply, _trust_text)


def bans_table(reply: Mapping[str, Any]) -> str:
    """The table of `peers --banned`."""
    if not reply["bans"]:
        return "Nothing is banned."
    rows = [{**row, "by": "operator" if row["by_operator"] else "node"} for row in reply["bans"]]
    return toolkit.table(
        rows,
        [
            ("subject", "SUBJECT", _subject_text),
            ("left_s", "FOR ANOTHER", toolkit.duration_text),
            ("by", "BY"),
            ("times", "TIMES"),
            ("reason", "REASON"),
        ],
        drop=("times", "by"),
    )


def _subject_text(subject: str) -> str:
    return subject if "." in subject or ":" in subject else toolkit.short(subject)


def _trust_text(reply: Mapping[str, Any]) -> str:
    ban_row = reply["ban"]
    banned = None
    if ban_row:
        banned = f"for another {toolkit.duration_text(ban_row['left_s'])}: {ban_row['reason']}"
    head = toolkit.fields(
        [
            ("peer", reply["id"]),
            ("threat score", f"{reply['score']:g} (banned at {reply['ban_at']:g})"),
            ("banned", banned),
        ]
    )
    if not reply["offences"]:
        return f"{head}\nNo offences since the daemon started."
    rows = [
        {**row, "at": datetime.fromtimestamp(row["at"]).strftime("%Y-%m-%d %H:%M:%S")}
        for row in reply["offences"]
    ]
    columns = [("at", "TIME"), ("offence", "OFFENCE"), ("detail", "DETAIL")]
    return f"{head}\n{toolkit.table(rows, columns)}"


def _seconds(text: str) -> float:
    """Seconds of a duration such as `90`, `10m`, `12h` or `7d`; a usage error otherwise."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in _UNITS or not float(found[1]):
        toolkit.fail(
            f"--for {text!r} is not a duration; write 90s, 10m, 12h or 7d", toolkit.ExitCode.USAGE
        )
    return float(found[1]) * _UNITS[found[2]]
