"""Commands of `aitorrentctl` for peers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from aitorrent_transport import cli_bans, cli_why
from aitorrentd.cli import toolkit

COMMANDS = {
    "peers": "Show connected, known or banned peers; ban peers",
    "connect": "Connect to a peer and keep the channel open",
    "disconnect": "Disconnect from a peer",
    "ping": "Measure the round-trip time to a peer",
    "broadcast": "Send a message to every connected peer",
    "trust": "Show a peer's offences and threat score",
}
_BY_ID = (
    "Peers choose their own names, and two may choose the same. Only the id proves identity,"
    " so commands take ids, never names."
)
_AGAIN = "This node does not redial the peer until a restart. The peer may still reconnect.\n\n"
_MORE = {"disconnect": _AGAIN + _BY_ID, "ping": _BY_ID}


_EXAMPLES = {
    "peers": ("peers", "peers why oXHyf3Hs", "peers ban oXHyf3Hs --for 12h"),
    "connect": ("connect 192.0.2.1:8468", "connect /dns/node.example.org/tcp/8468"),
    "disconnect": ("disconnect oXHyf3Hs",),
    "ping": ("ping oXHyf3Hs", "ping --count 10 192.0.2.1:8468"),
    "broadcast": ('broadcast "Restarting in five minutes"',),
    "trust": ("trust oXHyf3Hs",),
}


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        help=f"{COMMANDS['peers']}.\n\n{_BY_ID}",
        invoke_without_command=True,
        epilog=toolkit.examples(*_EXAMPLES["peers"]),
    )
    group.callback()(peers)
    cli_bans.register(group)
    cli_why.register(group)
    app.add_typer(group, name="peers")
    for run in (connect, disconnect, ping, broadcast, cli_bans.trust):
        more = f"\n\n{_MORE[run.__name__]}" if run.__name__ in _MORE else ""
        app.command(
            run.__name__,
            help=f"{COMMANDS[run.__name__]}.{more}",
            epilog=toolkit.examples(*_EXAMPLES[run.__name__]),
        )(run)


def peers(
    ctx: typer.Context,
    known: Annotated[
        bool,
        typer.Option("--known", help="Show every peer that has ever answered this node's dial."),
    ] = False,
    banned: Annotated[
        bool, typer.Option("--banned", help="Show banned peers, addresses and networks.")
    ] = False,
) -> None:
    """Show peers."""
    if ctx.invoked_subcommand is not None:
        return
    if known and banned:
        toolkit.fail("--known and --banned are mutually exclusive", toolkit.ExitCode.USAGE)
    method, table = "peers", _peers_table
    if known or banned:
        method, table = ("known", _known_table) if known else ("bans", cli_bans.bans_table)
    with toolkit.connect() as client:
        reply = client.call(f"transport.{method}")
    toolkit.emit(reply, table)


def _peers_table(reply: Mapping[str, Any]) -> str:
    if not reply["peers"]:
        return "No peers. Connect to one: aitorrentctl connect ADDRESS"
    rows = [
        {
            **row,
            "way": "out" if row["outbound"] else "in",
            # The peer is in the first column.
            "address": row["address"].removesuffix(f"/p2p/{row['id']}"),
        }
        for row in reply["peers"]
    ]
    return toolkit.table(
        rows,
        [
            ("id", "PEER", toolkit.short),
            ("name", "NAME", lambda name: name or "-"),
            ("address", "ADDRESS", toolkit.short_ids),
            ("way", "WAY"),
            ("route", "ROUTE"),
            ("rtt_s", "RTT", toolkit.ms_text),
            ("connected_s", "FOR", toolkit.duration_text),
            ("streams", "STREAMS"),
            ("bytes_in", "IN", toolkit.bytes_text),
            ("bytes_out", "OUT", toolkit.bytes_text),
            ("agent", "AGENT"),
        ],
        drop=("agent", "streams", "bytes_out", "bytes_in", "connected_s", "way", "name", "rtt_s"),
    )


def _known_table(reply: Mapping[str, Any]) -> str:
    if not reply["known"]:
        return "This node has dialled no peer yet. For connected peers: aitorrentctl peers"
    return toolkit.table(
        reply["known"],
        [
            ("id", "PEER", toolkit.short),
            ("address", "ADDRESS", toolkit.short_ids),
            ("connected", "CONNECTED"),
            ("wanted", "KEPT"),
            ("fails", "FAILS"),
        ],
        drop=("fails",),
    )


def connect(
    address: Annotated[str, typer.Argument(help="A multiaddr or HOST:PORT.", metavar="ADDRESS")],
) -> None:
    """Connect to a peer."""
    wait_s = toolkit.timeout_s(10.0)
    with toolkit.connect(wait_s + 5.0) as client:
        began = time.monotonic()
        reply = client.call("transport.connect", {"address": address, "timeout_s": wait_s})
        took_s = time.monotonic() - began
    # An older channel to the peer stays, whatever the address.
    already = "already " * (reply["peer"]["connected_s"] > took_s)
    place = toolkit.clean(reply["peer"]["address"])
    toolkit.emit(reply, lambda r: f"{already}connected to {r['peer']['id']} at {place}")


def disconnect(
    peer: Annotated[str, typer.Argument(help="A peer id or its last characters.", metavar="PEER")],
) -> None:
    """Disconnect from a peer."""
    with toolkit.connect() as client:
        reply = client.call("transport.disconnect", {"peer": peer})
    toolkit.emit(reply, lambda r: f"disconnected from {r['id']}")


def ping(
    peer: Annotated[
        str, typer.Argument(help="A peer id, its last characters, or an address.", metavar="PEER")
    ],
    count: Annotated[
        int,
        typer.Option(
            "-c", "--count", min=1, max=100, help="Number of pings to send.", metavar="COUNT"
        ),
    ] = 4,
) -> None:
    """Measure the round-trip time to a peer."""
    wait_s = toolkit.timeout_s(5.0)
    with toolkit.connect((wait_s + 0.2) * count + wait_s) as client:
        call = {"peer": peer, "count": count, "timeout_s": min(wait_s, 60.0)}
        reply = client.call("transport.ping", call)
    toolkit.emit(reply, _ping_text)
    if all(ms is None for ms in reply["rtt_ms"]):
        toolkit.fail(f"{toolkit.short(reply['id'])} does not answer", toolkit.ExitCode.TRY_LATER)


def _ping_text(reply: Mapping[str, Any]) -> str:
    times = [ms for ms in reply["rtt_ms"] if ms is not None]
    lines = [
        f"{toolkit.short(reply['id'])}  {i + 1}  " + ("no answer" if ms is None else f"{ms:.2f} ms")
        for i, ms in enumerate(reply["rtt_ms"])
    ]
    lost = len(reply["rtt_ms"]) - len(times)
    if times:
        ordered = sorted(times)
        middle = (ordered[(len(times) - 1) // 2] + ordered[len(times) // 2]) / 2
        lines.append(
            f"{len(times)} of {len(reply['rtt_ms'])} answered; min {min(times):.2f},"
            f" median {middle:.2f}, max {max(times):.2f} ms"
        )
    return "\n".join(lines) if times or lost else "No pings sent."


def broadcast(
    message: Annotated[
        str, typer.Argument(help="The message; at most 4096 characters.", metavar="MESSAGE")
    ],
) -> None:
    """Send a message to every connected peer."""
    with toolkit.connect() as client:
        reply = client.call("transport.broadcast", {"text": message})
    peers_text = "1 peer" if reply["sent"] == 1 else f"{reply['sent']} peers"
    toolkit.emit(reply, lambda _: f"sent to {peers_text}")
