"""Downloads that pause, files that are checked again, and torrents that are removed."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api.tasks import beside
from tests.support import cli_runs
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.seeding.kill_works import files_of, missing_bytes, pieces_on, sha256_of


async def pair(
    factory: DaemonFactory, path: Path, size: int, **of_second: Any
) -> tuple[Daemon, Daemon, str]:
    """A daemon that shares a file, another one, and the digest."""
    digest = make_file(path, size)
    a = await seeding_daemon(factory)
    await a.call("seeding.share", {"path": str(path)})
    return a, await seeding_daemon(factory, a, **of_second), digest


async def state_of(daemon: Daemon) -> str:
    """The state of its only torrent; empty while it is not restored yet."""
    return "".join(str(row["state"]) for row in await torrents(daemon))


async def is_paused(daemon: Daemon) -> bool:
    return await state_of(daemon) == "paused"


@pytest.mark.parametrize("resume", ["kept", "deleted", "corrupt"])
async def test_download_goes_on_with_its_saved_state_and_without_it(
    daemon_factory: DaemonFactory, tmp_path: Path, resume: str
) -> None:
    size = 40 * MIB
    _, b, digest = await pair(daemon_factory, tmp_path / "f", size, download_limit="8MiB/s")
    content = (tmp_path / "f").read_bytes()
    path = files_of(b.state_dir) / digest

    async def ask() -> None:
        with contextlib.suppress(Exception):
            await download(b, digest)

    async with beside(ask(), "download"):
        await wait_for(lambda: path.exists() and sum(pieces_on(path, content)) > 2, 60)
        await b.call("seeding.pause", {"which": digest})
        assert await is_paused(b)
        await b.stop()
    there = pieces_on(path, content)
    assert not all(there), "the test has to pause it in the middle"
    with contextlib.closing(sqlite3.connect(b.state_dir / "seeding/seeding.sqlite")) as db:
        assert db.execute("SELECT length(resume) > 100 FROM torrents").fetchone() == (1,)
        if resume != "kept":
            db.execute("UPDATE torrents SET resume = ?", (b"" if resume == "deleted" else b"d1:",))
            db.commit()

    b = await seeding_daemon(daemon_factory, directory=b.directory)
    await wait_for(lambda: is_paused(b), 30)
    await wait_for(lambda: has(b, sum(there)), 30)
    await b.call("seeding.resume", {"which": digest})
    await wait_for(lambda: is_seeding(b), 60)

    assert sha256_of(path) == digest
    (row,) = await torrents(b)
    fetched = row["downloaded"] - (size - missing_bytes(there, size)) * (resume == "kept")
    assert fetched <= missing_bytes(there, size)


async def has(daemon: Daemon, pieces: int) -> bool:
    (row,) = await torrents(daemon)
    return bool(row["done"] >= pieces * 4 * MIB)


async def is_seeding(daemon: Daemon) -> bool:
    return await state_of(daemon) == "seeding"


async def test_recheck_fetches_the_piece_again_in_which_a_byte_changed_and_no_other(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    size = 22 * MIB
    _, b, digest = await pair(daemon_factory, tmp_path / "f", size)
    path = Path((await download(b, digest))[-1]["path"])
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[9 * MIB] ^= 1
    path.write_bytes(content)
    assert sha256_of(path) != digest
    code, _, err = await cli_runs.run(b, "seed", "recheck", digest[:12])
    assert code == 0, err
    await wait_for(lambda: is_seeding(b), 60)
    assert sha256_of(path) == digest
    assert path.stat().st_mode & 0o222 == 0

    async def fetched() -> int:
        return int((await torrents(b))[0]["downloaded"])

    assert await wait_for(fetched, 30) == 4 * MIB


@pytest.mark.parametrize("with_files", [False, True])
async def test_removed_torrent_leaves_or_takes_its_files_and_is_not_offered_any_more(
    daemon_factory: DaemonFactory, tmp_path: Path, with_files: bool
) -> None:
    a, b, digest = await pair(daemon_factory, tmp_path / "f", 5 * MIB)
    path = Path((await download(b, digest))[-1]["path"])
    code, _, err = await cli_runs.run(b, "seed", "remove", digest, *["--files"] * with_files)
    assert code == 0, err
    assert await torrents(b) == []
    assert path.exists() is not with_files
    code, _, err = await cli_runs.run(a, "seed", "remove", digest, *["--files"] * with_files)
    assert code == 0, err
    assert sha256_of(tmp_path / "f") == digest, "a user's file stays in any case"
    await a.stop()
    a = await seeding_daemon(daemon_factory, directory=a.directory)
    assert await torrents(a) == []


@pytest.mark.parametrize("preallocate", [True, False])
async def test_space_is_reserved_with_preallocate_and_only_then(
    daemon_factory: DaemonFactory, tmp_path: Path, preallocate: bool
) -> None:
    size = 40 * MIB
    digest = make_file(tmp_path / "f", size)
    content = (tmp_path / "f").read_bytes()
    a = await seeding_daemon(daemon_factory, upload_limit="4MiB/s")
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a, preallocate=preallocate)
    path = files_of(b.state_dir) / digest
    async with beside(download(b, digest), "download") as fetching:
        await wait_for(lambda: path.exists() and any(pieces_on(path, content)), 60)
        blocks = path.stat().st_blocks * 512
        (row,) = await torrents(b)
        assert row["done"] < size / 2, "the test has to look earlier"
        assert (blocks >= size) is preallocate, f"{blocks} bytes are reserved"
        fetching.cancel()
