"""`catalogue`: published models, on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrent_catalogue import cli_admin
from aitorrentd.cli import toolkit

COMMANDS = {"catalogue": "Search, show, publish and administer models at catalogues"}
_SEARCH: Final = (
    "Search the catalogues for files.\n\nEvery word must be part of the repository's name or of the"
    " file's path. Only files whose publisher's signature verifies are listed."
)
_SHOW: Final = (
    "Show the files of a model.\n\nThe newest revision, unless NAME ends in @ and a commit."
)
_PUBLISH: Final = (
    "Share a file and publish it at the catalogues.\n\nThe node signs what it publishes, and seeds"
    " the file where it lies. Sharing needs the seeding plugin."
)
PUBLISH_S: Final = 3600.0
"Hashing a large file takes a while."


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        help=f"{COMMANDS['catalogue']}.",
        no_args_is_help=True,
        epilog=toolkit.examples("catalogue search llama", "catalogue show org/model"),
    )
    group.command(
        "search",
        help=_SEARCH,
        epilog=toolkit.examples("catalogue search llama 70b", "catalogue search --repo org/model"),
    )(search)
    group.command("show", help=_SHOW, epilog=toolkit.examples("catalogue show org/model"))(show)
    group.command(
        "publish",
        help=_PUBLISH,
        epilog=toolkit.examples("catalogue publish w.gguf --repo org/model --revision $COMMIT"),
    )(publish)
    cli_admin.register(group)
    app.add_typer(group, name="catalogue")


def search(
    words: Annotated[list[str] | None, typer.Argument(help="Words to look for.")] = None,
    repo: Annotated[str, typer.Option(help="Repository, such as org/name.")] = "",
    revision: Annotated[str, typer.Option(help="Commit of 40 hexadecimal digits.")] = "",
    sha256: Annotated[str, typer.Option(help="SHA-256 of the file.")] = "",
    publisher: Annotated[str, typer.Option(help="Peer id of the publisher.")] = "",
    limit: Annotated[int, typer.Option(help="Most files to list.", min=1, max=200)] = 50,
) -> None:
    """Search the catalogues for files."""
    with toolkit.connect(60) as client:
        asked = {"text": " ".join(words or ()), "repo_id": repo, "revision": revision}
        asked |= {"sha256": sha256, "publisher": publisher}
        reply = client.call("catalogue.search", {**asked, "limit": limit})
    toolkit.emit(reply, _render_search)
    _warn(reply)


def _render_search(reply: Mapping[str, Any]) -> str:
    if not reply["files"]:
        return "No catalogue lists such a file."
    rows = [{**row, "model": row["repo_id"]} for row in reply["files"]]
    text = toolkit.table(
        rows,
        [
            ("model", "MODEL"),
            ("filename", "FILE"),
            ("size", "SIZE", toolkit.bytes_text),
            ("seeders", "SEEDERS"),
            ("publisher", "PUBLISHER", toolkit.short),
            ("sha256", "SHA-256", lambda digest: digest[:12]),
        ],
        drop=("sha256", "publisher"),
    )
    more = reply["total"] - len(rows)
    return f"{text}\n{more} more; narrow the search, or raise --limit" if more > 0 else text


def _warn(reply: Mapping[str, Any]) -> None:
    if reply["rejected"]:
        toolkit.warn(
            f"{reply['rejected']} entries do not verify and are left out: a catalogue lies, or is"
            " broken"
        )
    if reply["unsigned"]:
        toolkit.warn(f"{reply['unsigned']} entries that nobody signed are left out")


def show(
    name: Annotated[str, typer.Argument(help="Repository, or repository@commit.", metavar="NAME")],
) -> None:
    """Show the files of a model."""
    repo, _, revision = name.removeprefix("catalogue://").partition("@")
    with toolkit.connect(60) as client:
        reply = client.call("catalogue.show", {"name": repo, "revision": revision})
    toolkit.emit(reply, _render_show)


def _render_show(reply: Mapping[str, Any]) -> str:
    facts = toolkit.fields(
        [
            ("model", reply["repo_id"]),
            ("revision", reply["revision"]),
            ("files", f"{len(reply['files'])}, {toolkit.bytes_text(reply['size'])}"),
        ]
    )
    rows = [
        {**row, "note": [word for word in ("pickle", "gated") if row[word]]}
        for row in reply["files"]
    ]
    files = toolkit.table(
        rows,
        [
            ("filename", "FILE"),
            ("size", "SIZE", toolkit.bytes_text),
            ("seeders", "SEEDERS"),
            ("publisher", "PUBLISHER", toolkit.short),
            ("note", "NOTE"),
        ],
        drop=("publisher",),
    )
    command = f"aitorrentctl download catalogue://{reply['repo_id']}@{reply['revision']}"
    return f"{facts}\n\n{files}\n\n{command}"


def publish(
    file: Annotated[str, typer.Argument(help="File to publish.", metavar="FILE")],
    repo: Annotated[str, typer.Option(help="Repository that it is of, such as org/name.")],
    revision: Annotated[str, typer.Option(help="Commit of 40 hexadecimal digits.")],
    path: Annotated[
        str, typer.Option(help="Its path in the repository; by default, the file's name.")
    ] = "",
) -> None:
    """Share a file and publish it."""
    with toolkit.connect(PUBLISH_S) as client:
        asked = {"path": os.path.abspath(file), "filename": path or os.path.basename(file)}
        reply = client.call("catalogue.publish", {**asked, "repo_id": repo, "revision": revision})
    toolkit.emit(reply, _render_publish)


def _render_publish(reply: Mapping[str, Any]) -> str:
    table = toolkit.table(
        reply["servers"], [("server", "CATALOGUE"), ("outcome", "OUTCOME"), ("state", "STATE")]
    )
    return f"{toolkit.fields([('sha256', reply['sha256'])])}\n\n{table}"
