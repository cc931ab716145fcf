"""`plugin`: lists, inspects, switches and restarts plugins; `installing` has the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from aitorrentd.cli import installing, toolkit
from aitorrentd.cli.toolkit import ExitCode, duration_text, examples

Name = Annotated[str, typer.Argument(help="The plugin's name.", metavar="NAME")]

_COLUMNS: list[toolkit.Column] = [
    ("name", "NAME"),
    ("state", "STATE"),
    ("since_s", "FOR", duration_text),
    ("restarts", "RESTARTS"),
    ("tier", "TIER"),
    ("version", "VERSION"),
    ("detail", "DETAIL"),
]
_DROP = ("tier", "version", "restarts")
"Columns that a narrow terminal omits, the first one first."
_LAME = ("broken", "invalid", "failed", "blocked", "skipped")
"States of a plugin that should run and cannot."


def list_() -> None:
    """List the plugins and their states."""
    with toolkit.connect() as client:
        reply = client.call("plugin.list")
    toolkit.emit(reply, lambda r: toolkit.table(r["plugins"], _COLUMNS, drop=_DROP))


def info(name: Name) -> None:
    """Show a plugin with its methods, protocols and configuration."""
    with toolkit.connect() as client:
        toolkit.emit(client.call("plugin.info", {"name": name}), _render)


def enable(name: Name) -> None:
    """Enable a plugin, now and across restarts.

    Exits with 1 when the plugin cannot run.
    """
    _act("plugin.enable", name)


def disable(name: Name) -> None:
    """Disable a plugin, now and across restarts."""
    _act("plugin.disable", name)


def restart(name: Name) -> None:
    """Restart a plugin.

    Exits with 1 when it does not run again.
    """
    _act("plugin.restart", name)


def _act(method: str, name: str) -> None:
    with toolkit.connect() as client:
        row = client.call(method, {"name": name})
    toolkit.emit(row, _render_state)
    if row["state"] in _LAME:
        raise typer.Exit(ExitCode.ERROR)


def _render_state(row: Mapping[str, Any]) -> str:
    detail = f": {row['detail']}" if row.get("detail") else ""
    return toolkit.clean(f"{row['name']} is {row['state']}{detail}")


def _render(row: Mapping[str, Any]) -> str:
    pairs = [
        ("name", row.get("name")),
        ("summary", row.get("summary")),
        ("state", row.get("state")),
        ("detail", row.get("detail") or None),
        ("for", duration_text(row.get("since_s", 0))),
        ("started in", None if row.get("start_s") is None else duration_text(row["start_s"])),
        ("restarts", row.get("restarts")),
        ("from", f"{row.get('dist')} {row.get('version')} ({row.get('tier')})"),
        ("provides", row.get("provides") or None),
        ("requires", row.get("requires") or None),
        ("wants", row.get("wants") or None),
        ("methods", row.get("methods") or None),
        ("protocols", row.get("protocols") or None),
        ("config", [f"{k}: {toolkit.json_text(v)}" for k, v in row.get("config", {}).items()]),
    ]
    return toolkit.fields(pairs)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="List, install, enable, disable and restart plugins.",
        no_args_is_help=True,
        epilog=examples("plugin list", "plugin restart transport"),
    )
    group.command("list", epilog=examples("plugin list", "plugin list --json"))(list_)
    group.command(epilog=examples("plugin info transport"))(info)
    group.command(epilog=examples("plugin enable ollama"))(enable)
    group.command(epilog=examples("plugin disable ollama"))(disable)
    group.command(epilog=examples("plugin restart transport"))(restart)
    installing.register(group)
    app.add_typer(group, name="plugin")
