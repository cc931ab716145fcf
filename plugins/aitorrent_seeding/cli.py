"""`share`, `torrents` and `seed`: what this node shares, on the command line."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aitorrent_seeding.cli_download import download
from aitorrentd.cli import toolkit

COMMANDS = {
    "download": "Fetch and verify a file, a torrent or a model",
    "seed": "Control what this node seeds",
    "share": "Share a file, or the files of a folder, where they lie",
    "torrents": "Show the torrents of this node",
}
_MORE: Final = {
    "share": "The file is hashed once, and seeded where it lies: it is neither copied nor changed."
    " Whoever has the same file is in the same swarm. The daemon's user must be able to read it.",
    "torrents": "DONE is the share of the file that is here.",
    "download": "WHAT is a magnet link, the path of a .torrent file, an info-hash, a SHA-256, or a"
    " name such as hf://org/model@revision. The files are kept by the node, which seeds them;"
    " --to also places them in a folder. If you interrupt the command, the node goes on: see"
    " `aitorrentctl torrents`.",
}
_EXAMPLES: Final = {
    "share": ("share ./model.safetensors", "share ./Llama-3-70B --repo meta-llama/Llama-3-70B"),
    "torrents": ("torrents", "torrents --json"),
    "download": (
        "download hf://Qwen/Qwen2.5-0.5B --to ./Qwen2.5-0.5B",
        "download 'magnet:?xt=urn:btih:…'",
    ),
}
_SEEDS: Final = ("seeding", "paused", "missing")
Which = Annotated[
    str,
    typer.Argument(
        help="Digest, info-hash or name; its first 4 digits or more suffice.", metavar="WHICH"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    for run in (share, download, torrents):
        name = run.__name__
        text = f"{COMMANDS[name]}.\n\n{_MORE[name]}"
        app.command(name, help=text, epilog=toolkit.examples(*_EXAMPLES[name]))(run)
    group = typer.Typer(
        help=f"{COMMANDS['seed']}.",
        no_args_is_help=True,
        epilog=toolkit.examples("seed list", "seed limit 4e208a40 --upload 5MiB/s"),
    )
    for function, help_, example in (
        (list_, "Show what this node seeds.", "seed list"),
        (stop, "Stop sending and receiving a torrent, also after a restart.", "seed stop 4e208a40"),
        (resume, "Go on after `seed stop`, or after an error.", "seed resume 4e208a40"),
        (limit, "Set the limits of a torrent.", "seed limit 4e208a40 --ratio 2"),
        (recheck, "Hash a torrent's files again.", "seed recheck 4e208a40"),
        (remove, "Forget a torrent.", "seed remove 4e208a40 --files"),
        (
            export,
            "Write a .torrent file, which every BitTorrent client takes.",
            "seed export 4e208a40 model.torrent",
        ),
    ):
        name = function.__name__.rstrip("_")
        group.command(name, help=help_, epilog=toolkit.examples(example))(function)
    app.add_typer(group, name="seed")


def share(
    path: Annotated[str, typer.Argument(help="File or folder.", metavar="PATH")],
    repo: Annotated[
        str, typer.Option("--repo", metavar="ORG/NAME", help="Model that the files belong to.")
    ] = "",
    revision: Annotated[
        str,
        typer.Option(
            "--revision", metavar="COMMIT", help="Commit of that model, 40 hexadecimal digits."
        ),
    ] = "",
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="DIGEST", help="Refuse a file with another digest.")
    ] = "",
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", metavar="URL", help="Announce to this tracker.")
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Make torrents of version 1 and 2 at once.")
    ] = False,
) -> None:
    """Share a file or a folder."""
    params = {
        "path": os.path.abspath(path),
        "repo_id": repo,
        "revision": revision,
        "sha256": sha256.lower(),
        "trackers": tracker or [],
        "hybrid": hybrid,
    }
    with toolkit.connect(timeout=86_400.0) as client, toolkit.Progress() as progress:
        reply = client.call("seeding.share", params, progress=progress)
    toolkit.emit(reply, _render_shared)


def _render_shared(reply: Mapping[str, Any]) -> str:
    columns: list[toolkit.Column] = [
        ("sha256", "SHA-256"),
        ("size", "SIZE", toolkit.bytes_text),
        ("path", "FILE"),
    ]
    lines = [toolkit.table(reply["files"], columns)] if reply["files"] else []
    lines += [f"skipped: {toolkit.clean(path)} is empty" for path in reply["skipped"]]
    if len(reply["files"]) == 1:
        lines.append(toolkit.clean(reply["files"][0]["magnet"]))
    return "\n".join(lines)


def torrents() -> None:
    """Show the torrents of this node."""
    with toolkit.connect() as client:
        reply = client.call("seeding.torrents")
    toolkit.emit(reply, _render_torrents)


def list_() -> None:
    """Show what this node seeds."""
    with toolkit.connect() as client:
        reply = client.call("seeding.torrents")
    seeding = [row for row in reply["torrents"] if row["state"] in _SEEDS]
    toolkit.emit({**reply, "torrents": seeding}, _render_torrents)


def _render_torrents(reply: Mapping[str, Any]) -> str:
    if not reply["torrents"]:
        return "Nothing here; share a file with `aitorrentctl share FILE`."
    rows = [
        {
            **row,
            "digest": (row["sha256"] or row["info_hash"])[:12],
            "share": f"{row['done'] / row['size']:.0%}" if row["size"] else "-",
            "down": _rate(row["download_bps"]),
            "up": _rate(row["upload_bps"]),
            "ratio": f"{row['uploaded'] / row['size']:.2f}" if row["size"] else "-",
        }
        for row in reply["torrents"]
    ]
    columns: list[toolkit.Column] = [
        ("digest", "DIGEST"),
        ("state", "STATE"),
        ("share", "DONE"),
        ("size", "SIZE", toolkit.bytes_text),
        ("peers", "PEERS"),
        ("down", "DOWN"),
        ("up", "UP"),
        ("ratio", "RATIO"),
        ("name", "NAME"),
    ]
    text = toolkit.table(rows, columns, drop=("ratio", "peers"))
    problems = [
        f"{toolkit.clean(row['name'])}: {toolkit.clean(row['problem'])}"
        for row in reply["torrents"]
        if row["problem"]
    ]
    problems += [
        f"{toolkit.clean(row['name'])}: tracker: {toolkit.clean(row['tracker_problem'])}"
        for row in reply["torrents"]
        if row["tracker_problem"]
    ]
    return "\n".join([text, *problems])


def _rate(bytes_per_s: float) -> str:
    return f"{toolkit.bytes_text(bytes_per_s)}/s" if bytes_per_s else "-"


def _operate(
    method: str, params: Mapping[str, Any], render: Callable[[Any], str] | None = None
) -> None:
    with toolkit.connect(timeout=3600.0) as client:
        reply = client.call(f"seeding.{method}", params)
    toolkit.emit(reply, render or (lambda row: _render_torrents({"torrents": [row]})))


def stop(which: Which) -> None:
    """Pause a torrent."""
    _operate("pause", {"which": which})


def resume(which: Which) -> None:
    """Go on."""
    _operate("resume", {"which": which})


def recheck(which: Which) -> None:
    """Hash everything again."""
    _operate("recheck", {"which": which})


def remove(
    which: Which,
    files: Annotated[
        bool,
        typer.Option("--files", help="Also delete what was fetched; files you shared always stay."),
    ] = False,
) -> None:
    """Forget a torrent."""

    def removed(row: Mapping[str, Any]) -> str:
        rest = f"; still there: {row['path']}" if os.path.exists(row["path"]) else ""
        return toolkit.clean(f"removed {row['name']}{rest}")

    _operate("remove", {"which": which, "files": files}, removed)


def export(
    which: Which,
    file: Annotated[
        str, typer.Argument(help="File to write; - = standard output.", metavar="FILE")
    ],
) -> None:
    """Write a .torrent file."""
    with toolkit.connect() as client:
        reply = client.call("seeding.torrent_file", {"which": which})
    content = base64.b64decode(reply.pop("content"))
    if file == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        Path(file).write_bytes(content)
    except OSError as e:
        toolkit.fail(f"cannot write {file}: {e.strerror}")
    toolkit.emit({**reply, "file": os.path.abspath(file), "bytes": len(content)}, _exported)


def _exported(reply: Mapping[str, Any]) -> str:
    return toolkit.clean(f"{reply['file']}: info-hash {reply['info_hash']}")


def limit(
    which: Which,
    upload: Annotated[
        str | None, typer.Option("--upload", metavar="RATE", help="Such as 2MiB/s; 0 = unlimited.")
    ] = None,
    download: Annotated[
        str | None,
        typer.Option("--download", metavar="RATE", help="Such as 2MiB/s; 0 = unlimited."),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", min=0, help="Stop after this many times the size; 0 = never."),
    ] = None,
    time: Annotated[
        float | None,
        typer.Option("--time", metavar="SECONDS", min=0, help="Stop after this long; 0 = never."),
    ] = None,
) -> None:
    """Set limits."""
    _operate(
        "limit",
        {
            "which": which,
            "upload_bps": upload,
            "download_bps": download,
            "ratio": ratio,
            "seed_time_s": time,
        },
        _render_limits,
    )


def _render_limits(row: Mapping[str, Any]) -> str:
    limits = row["limits"]

    def rate(bps: int) -> str:
        return f"{toolkit.bytes_text(bps)}/s" if bps else "unlimited"

    def end(value: float | None, text: Callable[[float], str]) -> str:
        return "as configured" if value is None else text(value) if value else "never"

    return toolkit.fields(
        [
            ("torrent", row["name"]),
            ("upload", rate(limits["upload_bps"])),
            ("download", rate(limits["download_bps"])),
            ("stops at ratio", end(limits["ratio"], "{:g}".format)),
            ("stops after", end(limits["seed_time_s"], toolkit.duration_text)),
        ]
    )
