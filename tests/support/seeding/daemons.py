"""Daemons that seed, the files that they share, and what they fetched."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.nodes import Daemon, DaemonFactory, merged

MIB = 2**20


def settings(**over: Any) -> dict[str, Any]:
    """The table of the plugin: loopback, any free port."""
    return {"profile": "lan", "listen": "127.0.0.1", "port": 0, **over}


async def seeding_daemon(
    factory: DaemonFactory,
    hub: Daemon | None = None,
    *,
    plugins: Mapping[str, Any] | None = None,
    directory: Path | None = None,
    directory_of_files: Path | None = None,
    **over: Any,
) -> Daemon:
    """A daemon that seeds, connected to `hub`; one that was stopped keeps its configuration."""
    if directory is not None:
        return await factory(directory=directory)
    if directory_of_files is not None:
        over["directory"] = str(directory_of_files)
    bootstrap = [] if hub is None else (await hub.call("node.id"))["addresses"]
    tables = {
        "transport": {"bootstrap": bootstrap},
        "dht": {"enabled": False},
        "seeding": settings(**over),
    }
    return await factory({"plugins": merged(tables, plugins or {})})


def make_file(path: Path, size: int, seed: int = 1) -> str:
    """A file of `size` random bytes; returns its SHA-256."""
    source = random.Random(seed)
    parts = [source.randbytes(min(16 * MIB, size - at)) for at in range(0, size, 16 * MIB)]
    content = b"".join(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


async def download(
    daemon: Daemon, what: str = "", *, timeout_s: float = 120.0, **params: Any
) -> list[dict[str, Any]]:
    """Every item of a download, which has to end well."""
    async with await daemon.client(timeout_s) as client:
        asked = client.stream("seeding.download", {"what": what, **params})
        return [item async for item in asked]


async def torrents(daemon: Daemon) -> list[dict[str, Any]]:
    """The torrents of a daemon."""
    rows: list[dict[str, Any]] = (await daemon.call("seeding.torrents"))["torrents"]
    return rows
