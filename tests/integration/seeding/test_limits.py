"""Limits of seeding and of rates, of one torrent and of all.

qBittorrent 11086 and 4645: limits that did not stop a torrent, and a resume that they undid.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api.tasks import beside
from tests.support import cli_runs
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents

SIZE = 12 * MIB
RATE = 4 * MIB


async def pair(
    factory: DaemonFactory, path: Path, size: int = SIZE, **of_second: Any
) -> tuple[Daemon, Daemon, str]:
    """A daemon that shares a file, another one, and the digest."""
    digest = make_file(path, size)
    a = await seeding_daemon(factory)
    await a.call("seeding.share", {"path": str(path)})
    return a, await seeding_daemon(factory, a, **of_second), digest


async def state_of(daemon: Daemon) -> str:
    """The state of its only torrent."""
    (row,) = await torrents(daemon)
    return str(row["state"])


async def is_paused(daemon: Daemon) -> bool:
    return await state_of(daemon) == "paused"


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (("--ratio", "0.5"), "f: sent 0.5 times its size"),
        (("--time", "1"), "f: seeded for 1 s"),
    ],
)
async def test_limit_of_one_torrent_stops_it_for_good_and_the_list_says_why(
    daemon_factory: DaemonFactory, tmp_path: Path, limits: tuple[str, str], problem: str
) -> None:
    a, b, digest = await pair(daemon_factory, tmp_path / "f")
    make_file(tmp_path / "other", MIB, seed=2)
    await download(b, digest)
    code, _, err = await cli_runs.run(a, "seed", "limit", digest[:8], *limits)
    assert code == 0, err
    await a.call("seeding.share", {"path": str(tmp_path / "other")})

    async def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in await torrents(a)}

    async def has_stopped() -> bool:
        return await states() == {"f": "paused", "other": "seeding"}

    await wait_for(has_stopped, 30)
    assert problem in (await cli_runs.run(a, "seed", "list"))[1]
    await a.stop()
    a = await seeding_daemon(daemon_factory, directory=a.directory)
    await wait_for(has_stopped, 30)
    assert problem in (await cli_runs.run(a, "seed", "list"))[1]

    await cli_runs.run(a, "seed", "limit", digest, limits[0], "0")
    code, out, _ = await cli_runs.run(a, "seed", "resume", digest)
    assert code == 0 and "paused" not in out and problem not in out


@pytest.mark.parametrize("who", ["global upload", "global download", "upload", "download"])
async def test_rates_are_kept_to(daemon_factory: DaemonFactory, tmp_path: Path, who: str) -> None:
    """At most a second's worth more than the limit allows."""
    over: dict[str, Any] = {"download_limit": "4MiB/s"} if who == "global download" else {}
    digest = make_file(tmp_path / "f", SIZE)
    given: dict[str, Any] = {"upload_limit": "4MiB/s"} if who == "global upload" else {}
    a = await seeding_daemon(daemon_factory, **given)
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a, **over)
    if who == "upload":
        await cli_runs.run(a, "seed", "limit", digest, "--upload", "4MiB/s")
        await a.stop()  # limits outlive it
        a = await seeding_daemon(daemon_factory, directory=a.directory)
        address = (await a.call("node.id"))["addresses"][0]
        await b.call("transport.connect", {"address": address})
    started = time.monotonic()
    if who == "download":
        await a.call("seeding.limit", {"which": digest, "upload_bps": "1MiB/s"})
        async with beside(download(b, digest), "download") as fetching:
            await wait_for(lambda: torrents(b), 30)
            await b.call("seeding.limit", {"which": digest, "download_bps": "4MiB/s"})
            await a.call("seeding.limit", {"which": digest, "upload_bps": 0})
            started = time.monotonic()
            await fetching
    else:
        await download(b, digest)
    assert time.monotonic() - started > 0.6 * (SIZE - RATE) / RATE
