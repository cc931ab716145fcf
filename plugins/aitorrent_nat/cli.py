"""`aitorrentctl nat`: who can dial this node, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"nat": "Show who can dial this node, and what NATs keep out"}
_HELP: Final = {
    "status": "Show what NAT traversal does.",
}
_EXAMPLES: Final = {
    "status": ("nat status", "nat status --json"),
}


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        no_args_is_help=True,
        help=f"{COMMANDS['nat']}.",
        epilog=toolkit.examples("nat status"),
    )
    for run in (status,):
        name = run.__name__
        group.command(name, help=_HELP[name], epilog=toolkit.examples(*_EXAMPLES[name]))(run)
    app.add_typer(group, name="nat")


def status() -> None:
    """Show the state."""
    with toolkit.connect() as client:
        reply = client.call("nat.status")
    toolkit.emit(reply, _status_text)


def _status_text(reply: Mapping[str, Any]) -> str:
    return toolkit.fields(list(reply["parts"].items()))
