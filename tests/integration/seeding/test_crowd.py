"""A crowd fetches one file: the seeder and some of the crowd die, and the others get all of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, settings, torrents
from tests.support.seeding.kill_trials import ALONE
from tests.support.seeding.kill_works import (
    check_complete,
    files_of,
    missing_bytes,
    pieces_on,
    sha256_of,
)

SIZE = 64 * MIB
LEECHERS = 8
DEAD = 3
LIFE_S = 150.0


async def member(factory: DaemonFactory, addresses: list[str], **over: Any) -> Daemon:
    """A daemon of the crowd, which does nothing else."""
    plugins = {**ALONE, "seeding": settings(**over), "transport": {"bootstrap": addresses}}
    return await factory({"plugins": plugins}, ready=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_crowd_outlives_its_seeder_and_three_of_eight_leechers(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    content = (tmp_path / "f").read_bytes()
    seeder = await member(daemon_factory, [], upload_limit="12MiB/s")
    await seeder.ready()
    await seeder.call("seeding.share", {"path": str(tmp_path / "f")})
    known = (await seeder.call("node.id"))["addresses"]
    limits = {"upload_limit": "3MiB/s"}
    first = await member(daemon_factory, known, **limits)
    await first.ready()
    known = [*known, *(await first.call("node.id"))["addresses"]]
    rest = [await member(daemon_factory, known, **limits) for _ in range(LEECHERS - 1)]
    for daemon in rest:
        await daemon.ready()
    draw = random.Random(7)
    dead = draw.sample(rest, DEAD)
    alive = [daemon for daemon in (first, *rest) if daemon not in dead]

    async def fetch(daemon: Daemon) -> None:
        with contextlib.suppress(Exception):  # of those that are killed
            await download(daemon, digest, timeout_s=LIFE_S)

    def pieces(daemon: Daemon) -> list[bool]:
        return pieces_on(files_of(daemon.state_dir) / digest, content)

    def has(daemon: Daemon, count: int) -> bool:
        return sum(pieces(daemon)) >= count

    def is_spread() -> bool:
        return all(any(column) for column in zip(*map(pieces, alive), strict=True))

    async with asyncio.TaskGroup() as group:
        for daemon in (first, *rest):
            group.create_task(fetch(daemon))
        for n, daemon in enumerate(dead, start=2):
            await wait_for(partial(has, daemon, n), LIFE_S)
            await daemon.kill()
        await wait_for(is_spread, LIFE_S, every_s=0.2)
        await seeder.kill()
        assert not all(all(pieces(daemon)) for daemon in alive), "the test has to kill it earlier"

    for daemon in alive:
        assert sha256_of(files_of(daemon.state_dir) / digest) == digest
        assert [row["state"] for row in await torrents(daemon)] == ["seeding"]
    for daemon in dead:
        check_complete(daemon.state_dir)
    for daemon in alive:
        if daemon is not first:  # of several, blocks are asked twice at the end
            await daemon.kill()
    back = dead[-1]  # it had most when it was killed
    there = pieces(back)
    back = await daemon_factory(directory=back.directory)
    await download(back, digest, timeout_s=LIFE_S)
    assert sha256_of(files_of(back.state_dir) / digest) == digest
    (row,) = await torrents(back)
    assert row["downloaded"] <= missing_bytes(there, SIZE) + MIB
