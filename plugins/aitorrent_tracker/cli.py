"""`tracker`: the BitTorrent tracker of this node, on the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"tracker": "Show the BitTorrent tracker of this node, and fill its catalogue"}
_STATS: Final = (
    "Show what the tracker keeps and did.\n\nThe plugin is off unless"
    " plugins.tracker.enabled is true. Counts of events start with the plugin."
)


_IMPORT: Final = (
    "Enter the models of an older catalogue.\n\nFILE is what mongoexport wrote of its collection: a"
    " JSON array, or one document after the other. Each has repo_id, filename, commit_hash (or"
    " revision), info_hash or magnet_link, and file_size. Nobody signed them, so they are listed as"
    " unsigned. Importing again changes nothing."
)
_MAX_BYTES: Final = 512 * 2**20
_BATCH: Final = 500
_SHOWN: Final = 50
"Refused documents that are listed, unless --json lists all."


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
    group.command(
        "import",
        help=_IMPORT,
        epilog=toolkit.examples("tracker import torrents.json --dry-run"),
    )(import_)
    app.add_typer(group, name="tracker")


def stats() -> None:
    """Show what the tracker keeps and did."""
    with toolkit.connect() as client:
        reply = client.call("tracker.stats")
    toolkit.emit(reply, _render_stats)


def import_(
    file: Annotated[str, typer.Argument(help="Export of the collection.", metavar="FILE")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
) -> None:
    """Enter the models of an older catalogue."""
    documents = _documents(file)
    total: dict[str, Any] = {"created": 0, "unchanged": 0, "refused": [], "dry_run": dry_run}
    with toolkit.connect(120) as client, toolkit.Progress() as progress:
        for start in range(0, len(documents), _BATCH):
            progress({"text": "importing", "done": start, "total": len(documents)})
            batch = {"documents": documents[start : start + _BATCH], "dry_run": dry_run}
            reply = client.call("tracker.import", batch)
            total["created"] += reply["created"]
            total["unchanged"] += reply["unchanged"]
            total["refused"] += [
                {**each, "number": start + each["number"]} for each in reply["refused"]
            ]
    toolkit.emit(total, _render_import)


def _documents(file: str) -> list[dict[str, Any]]:
    """The documents in a file: an array, or one after the other."""
    try:
        if os.path.getsize(file) > _MAX_BYTES:
            toolkit.fail(f"{file} is larger than {toolkit.bytes_text(_MAX_BYTES)}; split it")
        with open(file, encoding="utf-8-sig") as stream:
            text = stream.read().strip()
        decoder, found, at = json.JSONDecoder(), [], 0
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            found += value if isinstance(value, list) else [value]
            while at < len(text) and text[at].isspace():
                at += 1
    except OSError as e:
        toolkit.fail(f"cannot read {file}: {e.strerror}")
    except (ValueError, RecursionError) as e:
        toolkit.fail(f"{file} is not what mongoexport writes: {e}")
    for number, each in enumerate(found):
        if not isinstance(each, dict):
            toolkit.fail(f"{file} is not what mongoexport writes: document {number} is no object")
    if not found:
        toolkit.fail(f"{file} has no documents; export the collection again")
    return found


def _render_import(reply: Mapping[str, Any]) -> str:
    refused = reply["refused"]
    entered = "would be entered" if reply["dry_run"] else "entered"
    text = toolkit.fields(
        [
            (entered, reply["created"]),
            ("there already", reply["unchanged"]),
            ("refused", len(refused)),
        ]
    )
    if not refused:
        return text
    columns = [("number", "DOCUMENT"), ("name", "NAME"), ("reason", "REASON")]
    table = toolkit.table(refused[:_SHOWN], columns)
    more = len(refused) - _SHOWN
    return f"{text}\n\n{table}" + (f"\n{more} more; --json lists all" if more > 0 else "")


def _render_stats(reply: Mapping[str, Any]) -> str:
    listed = f"{reply['listed']} listed torrents, {reply['published']} files of the catalogue"
    serves = "every torrent" if reply["open"] else listed
    rows: list[tuple[str, Any]] = [
        ("listening", reply["listening"]),
        ("serves", f"{serves}, {'to holders of a key' if reply['private'] else 'to everyone'}"),
        ("kept in", reply["storage_problem"] or reply["storage"]),
        ("swarms", reply["swarms"]),
        ("peers", f"{reply['seeds']} seeds, {reply['leechers']} leechers"),
        ("completed", reply["completed"]),
        ("expired", reply["expired"]),
        ("not stored", reply["unlisted"]),
        ("connections", reply["connections"]),
    ]
    rows += [(name.replace("_", " "), n) for name, n in reply["counts"].items()]
    return toolkit.fields(rows)
