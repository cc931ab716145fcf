"""`aitorrentctl hello`. Imported when the command line is built, so it imports next to nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"hello": "Print a greeting, or have a peer send one."}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("hello", epilog=toolkit.examples("hello", "hello --peer oXHyf3Hs Ada"))(hello)


def hello(
    name: Annotated[str, typer.Argument(help="The name to greet.")] = "world",
    peer: Annotated[
        str, typer.Option(help="Id of the connected peer that sends the greeting.")
    ] = "",
) -> None:
    """Print a greeting, or have a peer send one."""
    with toolkit.connect() as client:
        reply = client.call("hello.greet", {"name": name, "peer": peer})
    toolkit.emit(reply, lambda r: toolkit.clean(r["text"]))
