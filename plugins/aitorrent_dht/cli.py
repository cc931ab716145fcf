"""`aitorrentctl dht`: values and providers in the distributed hash table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"dht": "Publish and find values and providers in the distributed hash table"}
WAIT_S: Final = 10.0

_HELP: Final = {
    "put": "Publish a value under a name until it is deleted.\n\nOnly this node can change or"
    " delete it. Other nodes get it with: dht get NAME --publisher ID, where ID is this node's id.",
    "get": "Show the value that a node published under a name.",
    "delete": "Delete a value that this node published.",
    "find": "Show which nodes provide a key of the directory.\n\nKeys are ait:cap:MODEL (nodes"
    " that answer for a model) and ait:shard:DIGEST (nodes that hold its layers).",
    "stats": "Show this node's state in the DHT.",
}
_EXAMPLES: Final = {
    "put": ('dht put motto "Share what you have"',),
    "get": ("dht get motto", "dht get motto --json"),
    "delete": ("dht delete motto",),
    "find": ("dht find ait:cap:llama3.2",),
    "stats": ("dht stats", "dht stats --json"),
}


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    group = typer.Typer(
        no_args_is_help=True,
        help=f"{COMMANDS['dht']}.",
        epilog=toolkit.examples("dht stats", "dht find ait:cap:llama3.2"),
    )
    for run in (put, get, delete, find, stats):
        name = run.__name__
        group.command(name, help=_HELP[name], epilog=toolkit.examples(*_EXAMPLES[name]))(run)
    app.add_typer(group, name="dht")


_Name = Annotated[str, typer.Argument(help="The value's name.", metavar="NAME")]


def _call(method: str, **params: Any) -> dict[str, Any]:
    wait_s = min(toolkit.timeout_s(WAIT_S), 120.0)
    with toolkit.connect(wait_s + 5.0) as client:
        return client.call(method, {**params, "timeout_s": wait_s})


def put(
    name: _Name,
    value: Annotated[str, typer.Argument(help="The value; at most 700 bytes.", metavar="VALUE")],
) -> None:
    """Publish a value."""
    reply = _call("dht.put", name=name, value=value)
    toolkit.emit(reply, _put_text)


def _put_text(reply: Mapping[str, Any]) -> str:
    name = toolkit.clean(reply["name"])
    if not reply["stored"]:
        return f"saved {name}; no node stores it yet: it is published as soon as one answers"
    return f"published {name}; stored by {_nodes(reply['stored'])}"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def get(
    name: _Name,
    publisher: Annotated[
        str,
        typer.Option(
            "--publisher", metavar="ID", help="Peer id of the publisher (default: this node)."
        ),
    ] = "",
) -> None:
    """Show a value."""
    reply = _call("dht.get", name=name, publisher=publisher)
    toolkit.emit(reply, lambda r: toolkit.clean(r["value"]))


def delete(name: _Name) -> None:
    """Delete a value."""
    reply = _call("dht.delete", name=name)
    toolkit.emit(reply, lambda r: f"deleted {toolkit.clean(r['name'])}")


def find(
    key: Annotated[
        str, typer.Argument(help="A key of the directory, such as ait:cap:MODEL.", metavar="KEY")
    ],
) -> None:
    """Show providers."""
    reply = _call("dht.find", key=key)
    toolkit.emit(reply, _find_text)


def _find_text(reply: Mapping[str, Any]) -> str:
    if not reply["providers"]:
        return f"No node provides {toolkit.clean(reply['key'])}."
    return toolkit.table(
        reply["providers"],
        [("peer", "PEER"), ("value", "OFFER", toolkit.json_text), ("addresses", "ADDRESSES")],
    )


def stats() -> None:
    """Show the state."""
    with toolkit.connect() as client:
        reply = client.call("dht.stats")
    toolkit.emit(reply, _stats_text)


def _stats_text(reply: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(reply["dropped"].items()))
    return toolkit.fields(
        [
            ("id", reply["id"]),
            ("mode", reply["mode"] + ("" if reply["joined"] else ", not joined yet")),
            ("udp ports", " ".join(map(str, reply["ports"])) or "none"),
            ("seen at", reply["seen_at"] or "unknown"),
            ("nodes", f"{reply['nodes']} in {reply['buckets']} buckets"),
            ("network", f"about {_nodes(reply['network_size'])}"),
            ("round trip", None if reply["rtt_s"] is None else toolkit.ms_text(reply["rtt_s"])),
            ("stores", f"{reply['records']} records, {toolkit.bytes_text(reply['records_bytes'])}"),
            ("publishes", f"{reply['published']} records"),
            ("sent requests", f"{reply['requests']} requests, {reply['timeouts']} unanswered"),
            ("served requests", str(reply["served"])),
            ("received", toolkit.bytes_text(reply["bytes_in"])),
            ("sent", toolkit.bytes_text(reply["bytes_out"])),
            ("ignored", dropped or "nothing"),
        ]
    )
