"""Shares whose drive is not there: they stay in the list, and are seeded again with the drive."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import FileMissing, FileReady, NotFound
from aitorrentd.api.tasks import beside
from tests.support import cli_runs
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.seeding.kill_works import sha256_of

SIZE = 5 * MIB


class Drive:
    """A folder that may go away, and come back with what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._away = path.with_name("away")
        path.mkdir()

    def unplug(self) -> None:
        """Only the empty folder stays, as where a drive was mounted."""
        self.path.rename(self._away)
        self.path.mkdir()

    def plug(self) -> None:
        """It is back."""
        self.path.rmdir()  # nothing was written meanwhile
        self._away.rename(self.path)


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    return Drive(tmp_path / "drive")


async def states(daemon: Daemon) -> dict[str, str]:
    """The state of each torrent by its name."""
    return {row["name"]: row["state"] for row in await torrents(daemon)}


async def is_seeding(daemon: Daemon, *names: str) -> bool:
    found = await states(daemon)
    return [found.get(name) for name in names] == ["seeding"] * len(names)


async def told(daemon: Daemon, into: list[tuple[str, Any]], ready: list[bool]) -> None:
    """Events of files, until cancelled."""
    async with await daemon.client(600.0) as client:
        topics = [FileMissing.topic, FileReady.topic]
        events = client.stream("node.events", {"topics": topics})
        ready.append(True)
        while True:
            item = await anext(events)
            into.append((item["topic"], item["event"]))


async def test_share_on_a_drive_that_is_not_there_stays_listed_and_comes_back_by_itself(
    daemon_factory: DaemonFactory, tmp_path: Path, drive: Drive
) -> None:
    digest = make_file(drive.path / "away", SIZE)
    make_file(tmp_path / "here", MIB, seed=2)
    a = await seeding_daemon(daemon_factory)
    for path in (drive.path / "away", tmp_path / "here"):
        await a.call("seeding.share", {"path": str(path)})
    await a.call("seeding.limit", {"which": "away", "ratio": 7})
    await a.stop()
    drive.unplug()

    a = await seeding_daemon(daemon_factory, directory=a.directory)
    await wait_for(lambda: is_seeding(a, "here"), 20)
    (row, other) = await torrents(a)
    assert (row["name"], row["state"], row["path"]) == ("away", "missing", str(drive.path / "away"))
    assert row["problem"].startswith(f"{drive.path / 'away'} is not there; mount its drive")
    assert (other["state"], other["problem"]) == ("seeding", "")
    code, out, _ = await cli_runs.run(a, "seed", "list")
    assert code == 0 and "missing" in out and f"away: {drive.path / 'away'} is not there" in out
    code, out, _ = await cli_runs.run(a, "seed", "list", "--json")
    assert [each["state"] for each in json.loads(out)["torrents"]] == ["missing", "seeding"]
    warnings = (await a.call("node.status"))["warnings"]
    assert any("away is not there" in str(each) for each in warnings)
    assert "no longer shared" not in a.log()

    events: list[tuple[str, Any]] = []
    ready: list[bool] = []
    async with beside(told(a, events, ready), "events"):
        await wait_for(lambda: ready, 10)
        drive.plug()
        await wait_for(lambda: is_seeding(a, "away", "here"), 30)
        await wait_for(lambda: events, 10)
    assert [(topic, event["path"]) for topic, event in events] == [
        (FileReady.topic, str(drive.path / "away"))
    ]
    (row, _) = await torrents(a)
    assert (row["problem"], row["limits"]["ratio"]) == ("", 7)
    b = await seeding_daemon(daemon_factory, a)
    items = await download(b, digest)
    assert sha256_of(Path(items[-1]["path"])) == digest


@pytest.mark.parametrize("command", ["resume", "recheck"])
async def test_missing_share_is_found_by_command_or_refused_with_the_reason(
    daemon_factory: DaemonFactory, drive: Drive, command: str
) -> None:
    digest = make_file(drive.path / "f", SIZE)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(drive.path / "f")})
    drive.unplug()
    with pytest.raises(NotFound, match="f is not there; mount its drive"):
        await a.call("seeding.recheck", {"which": digest})
    assert await states(a) == {"f": "missing"}
    await a.call("seeding.pause", {"which": digest})
    code, _, err = await cli_runs.run(a, "seed", command, digest[:12])
    assert code != 0 and "f is not there; mount its drive" in err
    drive.plug()
    await a.call(f"seeding.{command}", {"which": digest})
    if command == "recheck":
        await wait_for(lambda: is_in(a, "paused"), 20)
        await a.call("seeding.resume", {"which": digest})
    await wait_for(lambda: is_seeding(a, "f"), 20)
    assert sha256_of(drive.path / "f") == digest


async def is_in(daemon: Daemon, state: str) -> bool:
    return await states(daemon) == {"f": state}


async def test_drive_that_goes_while_a_file_is_shared_is_told_of_and_shared_again_when_it_is_back(
    daemon_factory: DaemonFactory, drive: Drive
) -> None:
    """Peers ask for the file, which libtorrent cannot read; it did not open it before."""
    digest = make_file(drive.path / "f", SIZE)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(drive.path / "f")})
    await a.stop()
    a = await seeding_daemon(daemon_factory, directory=a.directory)
    await wait_for(lambda: is_seeding(a, "f"), 20)
    b = await seeding_daemon(daemon_factory, a)
    events: list[tuple[str, Any]] = []
    ready: list[bool] = []
    async with beside(told(a, events, ready), "events"):
        await wait_for(lambda: ready, 10)
        drive.unplug()
        async with beside(download(b, digest), "download") as fetching:
            await wait_for(lambda: is_in(a, "missing"), 30)
            drive.plug()
            await wait_for(lambda: is_seeding(a, "f"), 30)
            items = await fetching
        await wait_for(lambda: len(events) >= 2, 10)
    assert sha256_of(Path(items[-1]["path"])) == digest
    assert [topic for topic, _ in events[:2]] == [FileMissing.topic, FileReady.topic]
    assert events[0][1]["sha256"] == digest


async def test_missing_share_is_removed_fetched_anew_or_shared_from_its_new_place(
    daemon_factory: DaemonFactory, tmp_path: Path, drive: Drive
) -> None:
    names = ("removed", "fetched", "moved")
    digests = {name: make_file(drive.path / name, MIB, seed=n) for n, name in enumerate(names)}
    a = await seeding_daemon(daemon_factory)
    for name in names:
        await a.call("seeding.share", {"path": str(drive.path / name)})
    b = await seeding_daemon(daemon_factory, a)
    await download(b, digests["fetched"])
    await a.stop()
    drive.unplug()
    a = await seeding_daemon(daemon_factory, b, directory=a.directory)
    await wait_for(lambda: all_missing(a, 3), 20)
    await a.call("transport.connect", {"address": (await b.call("node.id"))["addresses"][0]})

    await a.call("seeding.remove", {"which": "removed", "files": True})
    items = await download(a, digests["fetched"])
    assert sha256_of(Path(items[-1]["path"])) == digests["fetched"]
    make_file(tmp_path / "new", MIB, seed=names.index("moved"))
    await a.call("seeding.share", {"path": str(tmp_path / "new")})

    rows = {row["sha256"]: row for row in await torrents(a)}
    assert set(rows) == {digests["fetched"], digests["moved"]}
    assert rows[digests["moved"]]["path"] == str(tmp_path / "new")
    assert {row["state"] for row in rows.values()} == {"seeding"}
    drive.plug()
    assert {name: sha256_of(drive.path / name) for name in names} == digests


async def all_missing(daemon: Daemon, count: int) -> bool:
    return list((await states(daemon)).values()) == ["missing"] * count


async def test_other_file_at_the_place_of_a_missing_one_is_not_shared(
    daemon_factory: DaemonFactory, drive: Drive
) -> None:
    make_file(drive.path / "f", MIB)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(drive.path / "f")})
    await a.stop()
    drive.unplug()
    a = await seeding_daemon(daemon_factory, directory=a.directory)
    await wait_for(lambda: all_missing(a, 1), 20)
    (drive.path / "f").write_bytes(b"other")
    await wait_for(lambda: "f is no longer shared: it changed" in a.log(), 20)
    await wait_for(lambda: all_missing(a, 0), 20)
    assert (drive.path / "f").read_bytes() == b"other"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test mounts again after it was unmounted."""
    image, place = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    place.mkdir()
    mount(image, place)
    yield place
    subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def mount(image: Path, place: Path) -> None:
    subprocess.run(["mount", "-o", "loop", image, place], check=True)


def unmount(place: Path) -> None:
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
async def test_file_system_that_is_mounted_after_the_daemon_started(
    daemon_factory: DaemonFactory, tmp_path: Path, mounted: Path
) -> None:
    """What was shared there, and what was fetched to it."""
    digest = make_file(mounted / "shared", SIZE)
    a = await seeding_daemon(daemon_factory, directory_of_files=mounted / "files")
    await a.call("seeding.share", {"path": str(mounted / "shared")})
    make_file(tmp_path / "theirs", MIB, seed=2)
    b = await seeding_daemon(daemon_factory, a)
    theirs = (await b.call("seeding.share", {"path": str(tmp_path / "theirs")}))["files"][0]
    await download(a, theirs["sha256"])
    await a.stop()
    unmount(mounted)

    a = await seeding_daemon(daemon_factory, directory=a.directory)
    await wait_for(lambda: all_missing(a, 2), 20)
    mount(tmp_path / "image", mounted)
    await wait_for(lambda: is_seeding(a, "shared", theirs["sha256"]), 30)
    assert sha256_of(mounted / "shared") == digest
    (_, row) = await torrents(a)
    assert row["downloaded"] == 0, "nothing was fetched again"
