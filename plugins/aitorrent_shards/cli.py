"""`sessions`, `spans` and `model`: who computes what, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from aitorrent_shards import cli_models
from aitorrentd.cli import toolkit

COMMANDS = {
    "model": "Add, list and remove models that this node computes layers of",
    "sessions": "Show the sessions that this node computes now",
    "spans": "Show which nodes hold which layers of which models",
}
_MORE: Final = {
    "sessions": "A session is one stage of an answer: the layers of one node. Its coordinator asked"
    " for the answer, and its activations come from the node under FROM.",
    "spans": "A model can answer when the spans of the nodes cover all of its layers. FREE are the"
    " positions that new sessions may take, STEP is the median time of one token.",
}
_EXAMPLES: Final = {
    "sessions": ("sessions", "sessions --json"),
    "spans": ("spans", "spans --json"),
}


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    for run in (sessions, spans):
        name = run.__name__
        text = f"{COMMANDS[name]}.\n\n{_MORE[name]}"
        app.command(name, help=text, epilog=toolkit.examples(*_EXAMPLES[name]))(run)
    cli_models.register(app)


def sessions() -> None:
    """Show the sessions that this node computes."""
    with toolkit.connect() as client:
        reply = client.call("shards.sessions")
    toolkit.emit(reply, _render_sessions)


def _render_sessions(reply: Mapping[str, Any]) -> str:
    names = reply["names"]
    rows = [
        {
            **row,
            "layers": _layers(row),
            "for": _called(row["coordinator"], names),
            "from": _called(row["prev"], names),
        }
        for row in reply["sessions"]
    ]
    answering = reply["answering"]
    lines = [f"This node coordinates {answering} answer{'' if answering == 1 else 's'}."]
    if not rows:
        return f"No sessions: this node computes nothing now.\n{lines[0]}"
    if reply["overhead_us"] is not None:
        lines.append(f"A token spends {_step(reply['overhead_us'])} here outside of the layers.")
    columns: list[toolkit.Column] = [
        ("model", "MODEL"),
        ("layers", "LAYERS"),
        ("for", "COORDINATOR"),
        ("from", "FROM"),
        ("positions", "POSITIONS"),
        ("max_positions", "AT MOST"),
        ("journal_bytes", "KEPT", toolkit.bytes_text),
    ]
    drop = ("journal_bytes", "max_positions")
    return "\n".join([toolkit.table(rows, columns, drop=drop), *lines])


def spans() -> None:
    """Show which nodes hold which layers."""
    with toolkit.connect() as client:
        reply = client.call("shards.spans")
    toolkit.emit(reply, _render_spans)


def _render_spans(reply: Mapping[str, Any]) -> str:
    rows = [
        {
            **row,
            "range": _layers(row),
            "node": _called(row["peer"], reply["names"])
            + (" (this node)" if row["this_node"] else ""),
            "step": _step(row["step_us"]) if row["step_us"] else None,
            "digest": row["digest"][:12],
        }
        for row in reply["spans"]
    ]
    if not rows:
        return "No node holds layers; add a model: aitorrentctl model add NAME hf://ORG/NAME"
    columns: list[toolkit.Column] = [
        ("model", "MODEL"),
        ("range", "LAYERS"),
        ("layers", "OF"),
        ("node", "NODE"),
        ("dtype", "TYPE"),
        ("free_positions", "FREE TOKENS"),
        ("step", "STEP"),
        ("digest", "DIGEST"),
    ]
    return toolkit.table(rows, columns, drop=("digest", "dtype", "step", "free_positions"))


def _layers(row: Mapping[str, Any]) -> str:
    """`0-4`; the end is exclusive."""
    return f"{row['start']}-{row['end']}"


def _step(microseconds: float) -> str:
    return toolkit.ms_text(microseconds / 1e6)


def _called(peer: str, names: Mapping[str, str]) -> str:
    """The end of a node's id, with its name in quotes; names contain no quotes."""
    name = str(names.get(peer, "")).replace('"', "'")
    return f'{toolkit.short(peer)} "{name}"' if name else toolkit.short(peer)
