"""`aitorrentctl hello`. Imported when the command line is built, so it imports next to nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"hello": "Greet somebody, or let a peer do it."}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("hello", epilog=toolkit.examples("hello", "hello --peer oXHyf3Hs Ada"))(hello)


def hello(
    name: Annotated[str, typer.Argument(help="Who is greeted.")] = "world",
    peer: Annotated[str, typer.Option(help="The connected peer that does it.")] = "",
) -> None:
    """Greet somebody, or let a peer do it."""
    with toolkit.connect() as client:
        reply = client.call("hello.greet", {"name": name, "peer": peer})
    toolkit.emit(reply, lambda r: toolkit.clean(r["text"]))
