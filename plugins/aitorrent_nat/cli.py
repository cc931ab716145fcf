"""`aitorrentctl nat`: who can dial this node, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrent_nat import cli_relay
from aitorrentd.cli import toolkit

COMMANDS = {"nat": "Show who can dial this node, and test its NAT"}
PROBE_S: Final = 60.0
LIFETIME_S: Final = 400.0

_HELP: Final = {
    "status": "Show how strangers can reach this node, and what NAT traversal does.\n\nREACH is"
    " public (strangers dial this node), behind a cone NAT (hole punching works), behind a"
    " symmetric NAT (it works with some peers), relayed, offline, or unknown.",
    "probe": "Test the NAT in front of this node now.\n\nWithout --server, the servers in"
    " plugins.nat.stun and connected peers are asked. MAPPING says when packets from one port get"
    " one external address, FILTERING whose packets get in (RFC 4787).",
}
_EXAMPLES: Final = {
    "status": ("nat status", "nat status --json"),
    "probe": ("nat probe", "nat probe --server stun.example.org:3478", "nat probe --lifetime"),
}


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        no_args_is_help=True,
        help=f"{COMMANDS['nat']}.",
        epilog=toolkit.examples("nat status", "nat probe"),
    )
    for run in (status, probe):
        name = run.__name__
        group.command(name, help=_HELP[name], epilog=toolkit.examples(*_EXAMPLES[name]))(run)
    cli_relay.register(group)
    app.add_typer(group, name="nat")


def status() -> None:
    """Show the state."""
    with toolkit.connect() as client:
        reply = client.call("nat.status")
    toolkit.emit(reply, _status_text)


def _status_text(reply: Mapping[str, Any]) -> str:
    parts = {name: text for name, text in reply["parts"].items() if name != "reachability"}
    rows = [("reach", reply["reach"]), ("why", reply["reason"])]
    return toolkit.fields([*rows, *_behaviour_rows(reply["behaviour"]), *parts.items()])


def _behaviour_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("external address", toolkit.clean(found["external"]) or "unknown"),
        ("mapping", found["mapping"]),
        ("filtering", found["filtering"]),
        ("keeps ports", _yes(found["keeps_ports"])),
        ("hairpins", _yes(found["hairpins"])),
    ]
    if found["lifetime_s"] is not None:
        rows.append(("mappings last", _lifetime_text(found["lifetime_s"])))
    return rows


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"


def _lifetime_text(seconds: float) -> str:
    if not seconds:
        return "less than 15 s"
    return f"at least {toolkit.duration_text(seconds)}"


def probe(
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="HOST:PORT", help="STUN server to ask instead (port 3478)."
        ),
    ] = None,
    lifetime: Annotated[
        bool,
        typer.Option("--lifetime", help="Also measure how long idle mappings last: 5 minutes."),
    ] = False,
) -> None:
    """Test the NAT."""
    if server == "":
        raise typer.BadParameter("it is empty; write HOST:PORT", param_hint="'--server'")
    params = {"server": server or "", "lifetime": lifetime}
    with toolkit.connect(LIFETIME_S if lifetime else PROBE_S) as client, toolkit.Progress() as bar:
        reply = client.call("nat.probe", params, progress=bar)
    toolkit.emit(reply, _probe_text)


def _probe_text(reply: Mapping[str, Any]) -> str:
    lines = [toolkit.fields(_behaviour_rows(reply["behaviour"]))]
    rows = [
        {"server": each["server"], "says": each["mapped"] or each["problem"]}
        for each in reply["seen_by"]
    ]
    if rows:
        lines += ["", toolkit.table(rows, [("server", "SERVER"), ("says", "SEES THIS NODE AT")])]
    if reply["problem"]:
        lines += ["", toolkit.clean(reply["problem"])]
    return "\n".join(lines)
