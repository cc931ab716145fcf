"""`aitorrentctl token`: tokens of HTTP clients, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"token": "Manage the tokens of HTTP clients"}
_DAY_S: Final = 86_400.0
_HELP: Final = {
    "new": "Create a token and print it, this once.\n\nA client sends it as an API key. The role"
    " generate lets models answer, and read shows the node; operate includes both.",
    "list": "Show the tokens, without their secrets.",
    "revoke": "Revoke a token: it stops working at once.",
}
_EXAMPLES: Final = {
    "new": ("token new laptop", "token new grafana --role read --days 90"),
    "list": ("token list",),
    "revoke": ("token revoke laptop",),
}


class TokenRole(StrEnum):
    """What the holder of a token may do."""

    GENERATE = "generate"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        no_args_is_help=True,
        help=f"{COMMANDS['token']}.",
        epilog=toolkit.examples("token new laptop", "token list"),
    )
    for name, run in (("new", new), ("list", list_tokens), ("revoke", revoke)):
        group.command(name, help=_HELP[name], epilog=toolkit.examples(*_EXAMPLES[name]))(run)
    app.add_typer(group, name="token")


def new(
    name: Annotated[str, typer.Argument(help="Name for the list, such as the program's.")],
    role: Annotated[
        TokenRole, typer.Option("--role", help="What its holder may do.")
    ] = TokenRole.GENERATE,
    days: Annotated[
        float | None,
        typer.Option(
            "--days", min=0.01, help="When it expires (default: never).", show_default=False
        ),
    ] = None,
) -> None:
    """Create a token."""
    asked: dict[str, Any] = {"name": name, "role": role.value}
    if days is not None:
        asked["lifetime_s"] = days * _DAY_S
    with toolkit.connect() as client:
        reply = client.call("http.tokens.new", asked)
    toolkit.emit(reply, lambda shown: str(shown["token"]))


def list_tokens() -> None:
    """Show the tokens."""
    with toolkit.connect() as client:
        reply = client.call("http.tokens.list")
    toolkit.emit(reply, _list_text)


def revoke(name: Annotated[str, typer.Argument(help="Name of the token.")]) -> None:
    """Revoke a token."""
    with toolkit.connect() as client:
        client.call("http.tokens.revoke", {"name": name})
    toolkit.emit({"revoked": name}, lambda shown: f"revoked {toolkit.clean(shown['revoked'])}")


def _list_text(reply: Mapping[str, Any]) -> str:
    rows = [
        {
            "name": toolkit.clean(row["name"]),
            "role": row["role"],
            "created": _date(row["created"]),
            "expires": "never" if row["expires"] is None else _date(row["expires"]),
        }
        for row in reply["tokens"]
    ]
    columns = [("name", "NAME"), ("role", "ROLE"), ("created", "CREATED"), ("expires", "EXPIRES")]
    return toolkit.table(rows, columns) if rows else "no tokens"


def _date(at: float) -> str:
    """The local date and time of seconds since the epoch."""
    return datetime.fromtimestamp(at).isoformat(" ", "minutes")
