"""Daemons share files and fetch them by digest, without a tracker."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aitorrent_seeding.torrents import canonical, metainfo
from aitorrent_seeding.torrents.hashing import hash_file
from aitorrentd.api.tasks import beside
from tests.support.nodes import DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents


async def test_a_file_is_fetched_by_its_digest_without_a_tracker(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "weights.safetensors", 21 * MIB)
    a = await seeding_daemon(daemon_factory)
    shared = await a.call("seeding.share", {"path": str(tmp_path / "weights.safetensors")})
    assert [file["sha256"] for file in shared["files"]] == [digest]
    b = await seeding_daemon(daemon_factory, a)

    items = await download(b, digest)

    path = Path(items[-1]["path"])
    assert path.read_bytes() == (tmp_path / "weights.safetensors").read_bytes()
    assert items[-1]["from_peers"] >= 21 * MIB
    assert items[-1]["from_web"] == 0
    assert path.stat().st_mode & 0o222 == 0, "a verified file is read-only"
    (row,) = await torrents(b)
    assert (row["state"], row["done"]) == ("seeding", 21 * MIB)


async def test_killed_download_fetches_only_what_is_missing(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    size = 96 * MIB
    digest = make_file(tmp_path / "weights", size)
    a = await seeding_daemon(daemon_factory, upload_limit="16MiB/s")
    await a.call("seeding.share", {"path": str(tmp_path / "weights")})
    b = await seeding_daemon(daemon_factory, a)

    async def fetched() -> int:
        rows = await torrents(b)
        return int(rows[0]["done"]) if rows else 0

    async def ask() -> None:
        with contextlib.suppress(Exception):
            await download(b, digest)

    async with beside(ask(), "download"):
        await wait_for(lambda: at_least(fetched, 32 * MIB), 60)
        before = await fetched()
        await b.kill()
    b = await seeding_daemon(daemon_factory, directory=b.directory)
    done = await wait_for(lambda: at_least(fetched, before), 30)
    assert done < size, "the test has to kill it in the middle"

    items = await download(b, digest)

    assert Path(items[-1]["path"]).read_bytes() == (tmp_path / "weights").read_bytes()
    rows = await torrents(b)
    assert rows[0]["downloaded"] <= size - before + 8 * MIB


async def at_least(number: Callable[[], Awaitable[int]], least: int) -> int:
    found = await number()
    return found if found >= least else 0


async def test_a_shared_file_survives_a_restart_and_one_that_changed_is_no_longer_shared(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    for name in ("kept", "changed"):
        make_file(tmp_path / name, MIB, seed=len(name))
    a = await seeding_daemon(daemon_factory)
    for name in ("kept", "changed"):
        await a.call("seeding.share", {"path": str(tmp_path / name)})
    await a.stop()
    (tmp_path / "changed").write_bytes(b"other")

    a = await seeding_daemon(daemon_factory, directory=a.directory)

    await wait_for(lambda: "changed is no longer shared" in a.log(), 10)
    rows = await torrents(a)
    assert [(row["name"], row["state"]) for row in rows] == [("kept", "seeding")]
    assert (tmp_path / "changed").read_bytes() == b"other", "a user's file is never written"


async def test_any_of_many_files_is_found_by_asking_peers(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """More files than a node publishes in the directory."""
    digests = [make_file(tmp_path / "m" / f"{n:03}", 2000, seed=n) for n in range(120)]
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(tmp_path / "m")}, timeout_s=120)
    b = await seeding_daemon(daemon_factory, a)
    for n in (0, 119):
        items = await download(b, digests[n])
        assert Path(items[-1]["path"]).read_bytes() == (tmp_path / "m" / f"{n:03}").read_bytes()


async def test_a_users_file_is_never_written_even_if_it_changes_while_it_is_shared(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    for name in ("a", "c"):
        digest = make_file(tmp_path / name, 12 * MIB)
    content = (tmp_path / "c").read_bytes()
    a = await seeding_daemon(daemon_factory)
    c = await seeding_daemon(daemon_factory, a)
    await a.call("seeding.share", {"path": str(tmp_path / "a")})
    await c.call("seeding.share", {"path": str(tmp_path / "c")})
    with (tmp_path / "a").open("r+b") as file:
        file.write(b"the user edits the file")
    edited = (tmp_path / "a").read_bytes()
    b = await seeding_daemon(daemon_factory, a)
    await b.call("transport.connect", {"address": (await c.call("node.id"))["addresses"][0]})

    items = await download(b, digest)

    assert Path(items[-1]["path"]).read_bytes() == content
    assert (tmp_path / "a").read_bytes() == edited


async def test_seeding_stops_at_its_time_and_stays_stopped(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    make_file(tmp_path / "f", MIB)
    a = await seeding_daemon(daemon_factory, seed_time_s=1)
    await a.call("seeding.share", {"path": str(tmp_path / "f")})

    async def is_paused() -> bool:
        return [row["state"] for row in await torrents(a)] == ["paused"]

    await wait_for(is_paused, 15)
    assert "stopped seeding f: seeded for 1 s" in a.log()
    await a.stop()
    a = await seeding_daemon(daemon_factory, directory=a.directory)
    await wait_for(is_paused, 15)


async def test_port_in_use_is_replaced_by_one_of_the_next(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    make_file(tmp_path / "f", MIB)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        taken = sock.getsockname()[1]
        a = await seeding_daemon(daemon_factory, port=taken)
        await a.call("seeding.share", {"path": str(tmp_path / "f")})
        port = (await a.call("seeding.torrents"))["port"]
    assert taken < port <= taken + 10


async def test_file_is_fetched_again_after_it_was_removed(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """Whatever still runs for a torrent when it is removed ends quietly."""
    digest = make_file(tmp_path / "f", 24 * MIB)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a)
    for _ in range(6):
        items = await download(b, digest)
        await b.call("seeding.remove", {"which": digest, "files": True})
        assert not Path(items[-1]["path"]).exists()
    assert (await b.call("plugin.info", {"name": "seeding"}))["state"] == "running"


async def test_settings_of_seeding_are_kept_to(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """Rate, ratio, the private flag, reserved space, and a recheck that repairs."""
    size, rate = 24 * MIB, 8 * MIB
    digest = make_file(tmp_path / "f", size)
    hashes, _ = hash_file(tmp_path / "f")
    private = metainfo.read(canonical.metainfo(hashes, private=True))
    a = await seeding_daemon(daemon_factory, upload_limit="8MiB/s", seed_ratio=1.1, private=True)
    shared = await a.call("seeding.share", {"path": str(tmp_path / "f")})
    assert shared["files"][0]["info_hash"] == private.info_hash
    b = await seeding_daemon(daemon_factory, a, preallocate=True)
    path = b.state_dir / "seeding" / "files" / digest
    started = time.monotonic()
    async with beside(download(b, digest), "download") as fetching:
        await wait_for(lambda: path.exists() and path.stat().st_blocks * 512 >= size, 30)
        (row,) = await torrents(b)
        assert row["done"] < size / 2, "space is reserved when the download starts"
        await fetching
    assert time.monotonic() - started > 0.7 * size / rate

    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damaged")
    await b.call("seeding.recheck", {"which": digest})
    await download(b, digest)
    assert path.read_bytes() == (tmp_path / "f").read_bytes()
    (row,) = await torrents(b)
    assert row["downloaded"] <= 4 * MIB

    await wait_for(lambda: "stopped seeding f: sent 1.1 times its size" in a.log(), 20)
    assert [row["state"] for row in await torrents(a)] == ["paused"]
