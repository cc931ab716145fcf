"""After a power cut: what was not written is lost, nothing wrong is exposed, the rest is kept.

libtorrent 4974 and 6975, qBittorrent 3170 and 13199: progress that was lost, or believed too much.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrentd.api.tasks import beside
from tests.support.nodes import Daemon, DaemonFactory, short_dir, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, settings
from tests.support.seeding.daemons import torrents as torrents_of
from tests.support.seeding.disks import Disk, reaches_the_disk
from tests.support.seeding.kill_trials import ALONE
from tests.support.seeding.kill_works import files_of, missing_bytes, pieces_on, sha256_of

pytestmark = pytest.mark.root
SIZE = 48 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Where the state of the daemon lies that loses its power."""
    disk = Disk(tmp_path / "image", short_dir() / "state")
    yield disk
    disk.close()


async def on_disk(factory: DaemonFactory, disk: Disk, seeder: Daemon, **over: object) -> Daemon:
    """A daemon whose state is on the disk."""
    transport = {"bootstrap": (await seeder.call("node.id"))["addresses"]}
    plugins = {**ALONE, "seeding": settings(**over), "transport": transport}
    return await factory({"plugins": plugins}, directory=disk.place.parent)


async def after_power_cut(factory: DaemonFactory, disk: Disk, daemon: Daemon) -> None:
    """Cut the power at the worst moment: the database was written, and other files were not."""
    for path in (daemon.state_dir / "seeding").glob("seeding.sqlite*"):
        reaches_the_disk(path)
    disk.cut_power()
    await daemon.kill()
    disk.restore()


def saved(daemon: Daemon, condition: str) -> bool:
    """Whether the database has a torrent like this."""
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "seeding/seeding.sqlite")) as db:
        return bool(db.execute(f"SELECT 1 FROM torrents WHERE {condition}").fetchone())


@pytest.mark.parametrize(
    "moment",
    ["length(resume) > 0", "json_extract(state, '$.is_whole')"],
    ids=["in the middle", "just complete"],
)
async def test_after_a_power_cut_only_what_was_lost_is_fetched_and_nothing_wrong_is_exposed(
    daemon_factory: DaemonFactory, tmp_path: Path, disk: Disk, moment: str
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    content = (tmp_path / "f").read_bytes()
    rate = "3MiB/s" if "resume" in moment else "64MiB/s"
    a = await seeding_daemon(daemon_factory, upload_limit=rate)
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await on_disk(daemon_factory, disk, a)
    path = files_of(b.state_dir) / digest

    async def ask() -> None:
        with contextlib.suppress(Exception):
            await download(b, digest)

    async with beside(ask(), "download"):
        await wait_for(lambda: path.exists(), 60)
        await wait_for(lambda: saved(b, moment), 60, every_s=0.005)
        await after_power_cut(daemon_factory, disk, b)
    await a.stop()
    there = pieces_on(path, content)
    assert not all(there) or "is_whole" in moment, "the test has to cut it in the middle"

    b = await daemon_factory(directory=b.directory, boot=str(uuid.uuid4()))
    right = sum(there) * 4 * MIB
    for row in await wait_for(lambda: torrents_of(b), 30):
        assert row["done"] <= right, "it says that it has what was lost"
    await seeding_daemon(daemon_factory, directory=a.directory)
    items = await download(b, digest)

    assert Path(items[-1]["path"]) == path
    assert sha256_of(path) == digest
    (row,) = await torrents_of(b)
    assert row["downloaded"] <= missing_bytes(there, SIZE)


async def test_file_that_was_complete_a_while_ago_outlives_a_power_cut(
    daemon_factory: DaemonFactory, tmp_path: Path, disk: Disk
) -> None:
    """It is on the disk before the node relies on it."""
    digest = make_file(tmp_path / "f", SIZE)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await on_disk(daemon_factory, disk, a)
    await download(b, digest)
    await wait_for(lambda: saved(b, "json_extract(state, '$.boot') = ''"), 30)
    await after_power_cut(daemon_factory, disk, b)
    await a.stop()

    b = await daemon_factory(directory=b.directory, boot=str(uuid.uuid4()))
    items = await download(b, digest)

    assert sha256_of(Path(items[-1]["path"])) == digest
    assert items[-1]["from_peers"] == 0


async def test_file_whose_size_and_time_were_written_before_its_bytes_is_verified_again(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """As the disk may be if the power goes between the last piece and `fdatasync`."""
    digest = make_file(tmp_path / "f", SIZE)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a)
    path = Path((await download(b, digest))[-1]["path"])
    await wait_for(lambda: saved(b, "json_extract(state, '$.boot') = ''"), 30)
    await b.kill()
    with contextlib.closing(sqlite3.connect(b.state_dir / "seeding/seeding.sqlite")) as db:
        db.execute("UPDATE torrents SET state = json_set(state, '$.boot', 'an earlier start')")
        db.commit()
    lose_bytes(path)

    b = await seeding_daemon(daemon_factory, directory=b.directory)
    await download(b, digest)

    assert sha256_of(path) == digest


def lose_bytes(path: Path) -> None:
    """Make it zeros that look like the file."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(bytes(SIZE))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
