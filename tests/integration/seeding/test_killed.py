"""After SIGKILL, and after damage to the disk: nothing is wrong, and what was right is kept."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from aitorrent_seeding.torrents.canonical import piece_length
from aitorrentd.api.tasks import beside
from tests.support.nodes import DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.seeding.kill_kinds import KINDS, works
from tests.support.seeding.kill_trials import Found
from tests.support.seeding.kill_works import files_of, missing_bytes, pieces_on

TRIALS = 2


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
async def test_daemons_killed_at_any_moment_lose_nothing_and_expose_no_wrong_byte(
    daemon_factory: DaemonFactory, tmp_path: Path, kind: str
) -> None:
    """A few of what `benchmarks/kill_trials.py` does by the hundred."""
    found = {kind: Found()}
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    async with works(daemon_factory, found, tmp_path) as made:
        await made[kind].begin()
        for _ in range(TRIALS):
            await made[kind].trial(draw)
        await made[kind].end()
    assert sum(found[kind].kills.values()) == TRIALS
    assert found[kind].finished > 0


async def test_what_the_disk_lost_is_fetched_again_and_nothing_else(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """The saved state says that a piece is there, and its bytes are others."""
    size = 30 * MIB
    digest = make_file(tmp_path / "f", size)
    content = (tmp_path / "f").read_bytes()
    a = await seeding_daemon(daemon_factory, upload_limit="8MiB/s")
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a)
    path = files_of(b.state_dir) / digest

    async def ask() -> None:
        with contextlib.suppress(Exception):
            await download(b, digest)

    async with beside(ask(), "download"):
        await wait_for(lambda: path.exists() and any(pieces_on(path, content)), 60)
        await b.stop()
    there = pieces_on(path, content)
    first = there.index(True)
    with path.open("r+b") as file:
        file.seek(first * piece_length(size) + 100)
        file.write(bytes(100))
    b = await seeding_daemon(daemon_factory, directory=b.directory)

    await download(b, digest)

    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o222 == 0
    assert "changed on the disk; what is wrong in it is fetched again" in b.log()
    (row,) = await torrents(b)
    there[first] = False
    assert row["downloaded"] <= missing_bytes(there, size)
