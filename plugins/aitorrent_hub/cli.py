"""`aitorrentctl hub`: the mirror of the Hugging Face Hub, on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aitorrent_hub import cli_hook
from aitorrentd.cli import toolkit

COMMANDS = {"hub": "Use the swarm with Hugging Face tools"}
SCAN_S: Final = 24 * 3600.0
_NOTHING: Final = (
    "No files of huggingface_hub there. A folder that it did not fill is shared by: aitorrentctl"
    " share FOLDER"
)
_HELP: Final = {
    "env": "Print what programs need to use the mirror, for a shell.\n\nA shell takes them by:\n\n"
    'eval "$(aitorrentctl hub env)"\n\nPrograms read HF_ENDPOINT once, when they start. While the'
    " daemon is stopped, they cannot download.",
    "status": "Show what the mirror keeps and did.\n\nBytes were sent to programs from this machine"
    " (here), from a swarm, or from the Hub.",
    "scan": "Verify files that huggingface_hub downloaded, and seed those that are public.\n\nEach"
    " file is compared with the SHA-256 that the Hub has for it, and seeded where it lies. Files of"
    " gated and private repositories are left out.",
}
_EXAMPLES: Final = {
    "env": ("hub env", "hub env --json"),
    "status": ("hub status",),
    "scan": ("hub scan", "hub scan /models/Qwen3-8B --repo Qwen/Qwen3-8B"),
}


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        no_args_is_help=True,
        help=f"{COMMANDS['hub']}.",
        epilog=toolkit.examples("hub env", "hub scan"),
    )
    for run in (env, status, scan):
        name = run.__name__
        group.command(name, help=_HELP[name], epilog=toolkit.examples(*_EXAMPLES[name]))(run)
    cli_hook.register(group)
    app.add_typer(group, name="hub")


def env() -> None:
    """Print the variables."""
    with toolkit.connect() as client:
        reply = client.call("hub.status")
    if not reply["listening"]:
        raise toolkit.CommandFailed(
            f"the mirror does not listen: {reply['problem']}", toolkit.ExitCode.ERROR
        )
    values = {"HF_ENDPOINT": f"http://{reply['listening'][0]}"}
    toolkit.emit(values, lambda shown: "\n".join(f"export {k}={v}" for k, v in shown.items()))


def status() -> None:
    """Show the state."""
    with toolkit.connect() as client:
        reply = client.call("hub.status")
    toolkit.emit(reply, _status_text)


def _status_text(reply: Mapping[str, Any]) -> str:
    mirror = ", ".join(f"http://{address}" for address in reply["listening"])
    sent = ", ".join(f"{name} {toolkit.bytes_text(n)}" for name, n in reply["sent"].items())
    rows: list[tuple[str, Any]] = [
        ("mirror", mirror or toolkit.clean(reply["problem"])),
        ("of", toolkit.clean(reply["upstream"])),
        ("swarm", "used" if reply["swarm"] else "not used: the seeding plugin is not running"),
        ("cache", f"{reply['files']} files, {toolkit.bytes_text(reply['bytes'])}"),
        ("downloads", reply["downloads"]),
        ("from the Hub", toolkit.bytes_text(reply["fetched_bytes"])),
        ("sent", sent),
        ("wrong files", reply["wrong_files"]),
    ]
    rows += [(f"requests: {name}", n) for name, n in reply["requests"].items()]
    return toolkit.fields(rows)


def scan(
    directory: Annotated[
        Path | None,
        typer.Argument(
            help="A cache, or the local_dir of a download (default: the cache of huggingface_hub).",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    repo: Annotated[
        str, typer.Option("--repo", metavar="ORG/NAME", help="Repository of a local_dir.")
    ] = "",
) -> None:
    """Verify and seed."""
    place = os.path.abspath(directory or _default_cache())
    if not directory and not os.path.exists(place):
        toolkit.fail(
            f"huggingface_hub keeps nothing at {place}; name a cache or a local_dir:"
            f" {toolkit.PROGRAM} hub scan FOLDER"
        )
    with toolkit.connect(SCAN_S) as client, toolkit.Progress() as bar:
        reply = client.call("hub.scan", {"directory": place, "repo": repo}, progress=bar)
    toolkit.emit(reply, _scan_text)


def _default_cache() -> str:
    """Where huggingface_hub keeps files, by its own variables."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    return os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))


def _scan_text(reply: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{n} {state}" for state, n in sorted(reply["counts"].items()))
    rows = [
        {
            "state": row["state"],
            "size": toolkit.bytes_text(row["size"]),
            "file": toolkit.clean(f"{row['repo'] or '?'}/{row['path']}"),
            "reason": toolkit.clean(row["reason"]),
        }
        for row in reply["files"]
    ]
    columns = [("state", "STATE"), ("size", "SIZE"), ("file", "FILE"), ("reason", "WHY")]
    table = toolkit.table(rows, columns)
    return f"{table}\n\n{counts}" if rows else counts or _NOTHING
