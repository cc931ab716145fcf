"""A download that does not fit stops with the reason, and goes on once there is room."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage

import pytest

from aitorrentd.api import Unavailable
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.seeding.web import file_server

pytestmark = pytest.mark.root
SIZE = 40 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def same(one: str, other: Path) -> bool:
    return Path(one).read_bytes() == other.read_bytes()


def grow(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)


async def shared(factory: DaemonFactory, path: Path) -> tuple[Daemon, str]:
    """A daemon that shares a file, and its digest."""
    digest = make_file(path, SIZE)
    daemon = await seeding_daemon(factory)
    await daemon.call("seeding.share", {"path": str(path)})
    return daemon, digest


async def test_download_from_peers_goes_on_when_there_is_room(
    daemon_factory: DaemonFactory, tmp_path: Path, small_disk: Path
) -> None:
    a, digest = await shared(daemon_factory, tmp_path / "f")
    b = await seeding_daemon(daemon_factory, a, directory_of_files=small_disk)

    with pytest.raises(Unavailable, match=r"the disk is full: .* has 16.0 MiB .* needs 41.0 MiB"):
        await download(b, digest)
    (row,) = await torrents(b)
    assert row["state"] == "stopped"
    assert "disk is full" in row["problem"]
    assert disk_usage(small_disk).used < MIB
    with pytest.raises(Unavailable, match="free some space there"):
        await download(b, digest)

    grow(small_disk)
    items = await download(b, digest)
    assert same(items[-1]["path"], tmp_path / "f")
    assert [row["state"] for row in await torrents(b)] == ["seeding"]


async def test_a_download_stops_before_somebody_else_fills_the_disk(
    daemon_factory: DaemonFactory, tmp_path: Path, small_disk: Path
) -> None:
    grow(small_disk)
    a, digest = await shared(daemon_factory, tmp_path / "f")
    b = await seeding_daemon(
        daemon_factory, a, directory_of_files=small_disk, download_limit=8 * MIB
    )
    waiting = asyncio.create_task(download(b, digest))
    await wait_for(lambda: disk_usage(small_disk).used > 4 * MIB)
    (small_disk / "other").write_bytes(bytes(30 * MIB))
    with pytest.raises(Unavailable, match="the disk is full"):
        await waiting
    assert disk_usage(small_disk).free > MIB

    (small_disk / "other").unlink()
    row = await b.call("seeding.resume", {"which": digest})
    assert row["done"] > 0
    assert not row["problem"]
    items = await download(b, digest)
    assert same(items[-1]["path"], tmp_path / "f")


async def test_two_downloads_do_not_count_on_the_same_room(
    daemon_factory: DaemonFactory, tmp_path: Path, small_disk: Path
) -> None:
    grow(small_disk)
    a, digest = await shared(daemon_factory, tmp_path / "f")
    second = make_file(tmp_path / "g", SIZE, seed=2)
    await a.call("seeding.share", {"path": str(tmp_path / "g")})
    b = await seeding_daemon(
        daemon_factory, a, directory_of_files=small_disk, download_limit=8 * MIB
    )
    first = asyncio.create_task(download(b, digest))
    await wait_for(lambda: disk_usage(small_disk).used > MIB)
    with pytest.raises(Unavailable, match="the disk is full"):
        await download(b, second)
    written = small_disk / second
    assert not (written.exists() and written.stat().st_blocks), "it was not even begun"
    assert same((await first)[-1]["path"], tmp_path / "f")


async def test_download_from_the_web_goes_on_when_there_is_room(
    daemon_factory: DaemonFactory, tmp_path: Path, small_disk: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    b = await seeding_daemon(daemon_factory, directory_of_files=small_disk)
    async with file_server((tmp_path / "f").read_bytes()) as web:
        with pytest.raises(Unavailable, match="disk is full|are needed"):
            await download(b, digest, urls=[web.url])
        grow(small_disk)
        before = web.sent
        items = await download(b, digest, urls=[web.url])
        assert web.sent - before <= SIZE
    assert same(items[-1]["path"], tmp_path / "f")
