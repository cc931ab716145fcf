"""`doctor`: checks for common problems, with a remedy for each, even while no daemon runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from aitorrentd.cli import tables, toolkit
from aitorrentd.cli.toolkit import clean, styled
from aitorrentd.errors import AitorrentError
from aitorrentd.exit_codes import ExitCode

_STYLE = {"ok": "green", "warn": "yellow", "fail": "red"}
_DOCTOR_TIMEOUT_S = 60.0


def doctor(
    plugin: Annotated[
        str, typer.Option(help="Only run the checks of this plugin.", metavar="NAME")
    ] = "",
    config: Annotated[
        str,
        typer.Option(
            help="The configuration file to check when no daemon is running.", metavar="FILE"
        ),
    ] = "",
) -> None:
    """Diagnose common problems and suggest fixes; needs no daemon.

    Exits with 1 when a check fails.
    """
    found = checks(plugin, config)
    toolkit.emit({"checks": found}, _render)
    if any(check["status"] == "fail" for check in found):
        raise typer.Exit(ExitCode.ERROR)


def checks(plugin: str, config: str) -> list[dict[str, Any]]:
    """The findings of the daemon, or without it of this program, and about the machine."""
    found = _checks(plugin, config)
    if plugin in ("", "core"):
        from dataclasses import asdict

        from aitorrentd.doctor.machine import machine_checks

        is_system = toolkit.socket_path() == toolkit.SYSTEM_SOCKET
        found += map(asdict, machine_checks(with_unit=is_system))
        found.append(_commands())
    return found


def _checks(plugin: str, config: str) -> list[dict[str, Any]]:
    from aitorrentd.control.client import NoAccess, NoDaemon
    from aitorrentd.system import unit

    reach: list[dict[str, Any]] = []
    try:
        if not plugin and unit.SYSTEM.sleeps(toolkit.socket_path()):
            # Checking must not start it.
            raise NoDaemon("the daemon is not running")
        with toolkit.connect(_DOCTOR_TIMEOUT_S) as client:
            reply = client.call("node.doctor", {"plugin": plugin} if plugin else {})
            found: list[dict[str, Any]] = reply["checks"]
            return found
    except AitorrentError as e:
        if plugin:
            raise
        if not isinstance(e, NoDaemon):
            reach = [_reach(e)]
        if isinstance(e, NoAccess) and not config:
            # A user's own node, which the other checks would inspect, is not the one meant.
            return reach
    from aitorrentd.doctor.checks import run_offline

    return [*reach, *run_offline(config or None)]


def _commands() -> dict[str, Any]:
    """A check of the commands that plugins add to this program."""
    from aitorrentd.cli.app import RESERVED
    from aitorrentd.cli.plugin_commands import PluginCommands

    wrong = PluginCommands(RESERVED).problems()
    return {
        "name": "commands",
        "plugin": "core",
        "summary": "plugin commands can be loaded",
        "status": "warn" if wrong else "ok",
        "text": "; ".join(wrong) or "plugin commands can be loaded",
        "remedy": "see the message; `pip list` shows the installed packages" if wrong else "",
    }


def _reach(error: AitorrentError) -> dict[str, Any]:
    """A check that reports why the daemon was not asked."""
    from aitorrentd.system import unit

    text, _, remedy = error.message.partition("; ")
    if not remedy and unit.SYSTEM.serves(toolkit.socket_path()):
        remedy = "see: journalctl -u aitorrentd"
    return {
        "name": "reach",
        "plugin": "core",
        "summary": "this user may access the daemon",
        "status": "fail",
        "text": text,
        "remedy": remedy or "check its log; if that does not help, restart it",
    }


def _render(reply: Mapping[str, Any]) -> str:
    lines = []
    for check in reply["checks"]:
        status = str(check["status"])
        name = check["name"] if check["plugin"] == "core" else f"{check['plugin']}.{check['name']}"
        mark = f"{status:<4}"
        first, *more = tables.wrapped(f"{mark}  {clean(name)}: {clean(check['text'])}", indent=6)
        lines += [styled(mark, _STYLE.get(status, "bold")) + first.removeprefix(mark), *more]
        if check.get("remedy") and status != "ok":
            # Never broken: it is meant to be copied.
            lines.append(f"      -> {clean(check['remedy'])}")
    failed = sum(check["status"] == "fail" for check in reply["checks"])
    warned = sum(check["status"] == "warn" for check in reply["checks"])
    count = len(reply["checks"])
    checks = f"{count} check{'s' * (count != 1)}"
    lines.append(f"{checks}, {failed} failed, {warned} with a warning")
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("doctor", epilog=toolkit.examples("doctor", "doctor --plugin transport"))(doctor)
