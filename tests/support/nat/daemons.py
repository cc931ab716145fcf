"""Daemons on the hosts of a lab: real processes with the default peer port.

    one = await daemon_at(daemon_factory, host, {"plugins": {...}})

They are `Daemon`s like any other: called over their control socket, read by `cli_runs.run`, and
stopped, with their logs checked for errors, by `daemon_factory`. Enter the lab before the fixture
ends: request `nat_lab` before `daemon_factory` in a test's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.support.nat.lab import Host, Lab
from tests.support.nodes import Daemon, DaemonFactory, merged

PORT: Final = 8468
"Where the daemons listen for peers."
# Backends that look for a server or a model on the machine have nothing to do here.
_QUIET: Final[Mapping[str, Any]] = {
    "ollama": {"enabled": False},
    "shards": {"enabled": False},
    "discovery": {"mdns": False},
}
OFF = {"enabled": False}
HELD_S = 45.0
"A node believes for ten seconds after its start that peers may yet dial it."


async def daemon_at(
    factory: DaemonFactory,
    host: Host,
    config: Mapping[str, Any] | None = None,
    *,
    bootstrap: Host | None = None,
    directory: Path | None = None,
    ready: bool = True,
    user: int = 0,
) -> Daemon:
    """A daemon on `host` whose bootstrap is the daemon on another host, if one is given."""
    tree: dict[str, Any] = {"plugins": dict(_QUIET)}
    if bootstrap is not None:
        transport = {"bootstrap": [f"{bootstrap.address}:{PORT}"]}
        tree = merged(tree, {"plugins": {"transport": transport}})
    return await factory(
        None if directory else merged(tree, config or {}),
        directory=directory,
        loopback=False,
        ready=ready,
        namespace=host.namespace,
        user=user,
    )


async def village(
    factory: DaemonFactory, net: Lab, config: Mapping[str, Any] | None = None
) -> list[Host]:
    """Three public hosts with daemons that are connected: enough to judge the NAT of a fourth."""
    hosts = [net.public() for _ in range(3)]
    for host in hosts:
        bootstrap = hosts[0] if host is not hosts[0] else None
        await daemon_at(factory, host, config, bootstrap=bootstrap)
    return hosts


async def peers(daemon: Daemon) -> list[dict[str, Any]]:
    """Its connected peers."""
    rows: list[dict[str, Any]] = (await daemon.call("transport.peers"))["peers"]
    return rows


async def peer_id(daemon: Daemon) -> str:
    """Its id."""
    return str((await daemon.call("node.id"))["id"])


async def held_at(daemon: Daemon) -> list[str]:
    """The relays at which it holds a reservation."""
    reply = await daemon.call("nat.relays")
    return [row["relay"] for row in reply["held"] if row["live"]]


async def route_to(daemon: Daemon, peer: str) -> str:
    """How the peer is connected; empty if it is not."""
    return next((row["route"] for row in await peers(daemon) if row["id"] == peer), "")
