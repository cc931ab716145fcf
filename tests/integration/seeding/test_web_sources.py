"""Files from the web: alone, beside peers, and when what the web sends is wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from aitorrentd.api import NotFound
from aitorrentd.api.tasks import beside
from tests.support.nodes import DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.seeding.kill_works import files_of, held_in, missing_bytes, pieces_on
from tests.support.seeding.web import file_server

SIZE = 13 * MIB + 5


async def test_file_comes_from_the_web_alone_and_is_seeded_then(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    content = (tmp_path / "f").read_bytes()
    a = await seeding_daemon(daemon_factory)
    async with file_server(content) as web:
        items = await download(a, digest, urls=[web.url])
        assert Path(items[-1]["path"]).read_bytes() == content
        assert (items[-1]["from_web"], items[-1]["from_peers"]) == (SIZE, 0)
        assert web.sent == SIZE
    (row,) = await torrents(a)
    assert (row["state"], row["sha256"]) == ("seeding", digest)
    assert "secret" not in a.log(), "what is in a URL may be a token"

    b = await seeding_daemon(daemon_factory, a)
    items = await download(b, digest)
    assert Path(items[-1]["path"]).read_bytes() == content


async def test_web_that_cuts_connections_is_asked_for_the_rest(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    a = await seeding_daemon(daemon_factory)
    async with file_server((tmp_path / "f").read_bytes()) as web:
        web.breaks_after = 5 * MIB
        items = await download(a, digest, urls=[web.url])
        assert len(web.requests) == 3
    assert Path(items[-1]["path"]).read_bytes() == (tmp_path / "f").read_bytes()


async def test_wrong_file_from_the_web_is_never_given_out(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    digest = make_file(tmp_path / "f", SIZE)
    content = (tmp_path / "f").read_bytes()
    a = await seeding_daemon(daemon_factory)
    async with file_server(content) as wrong, file_server(content) as right:
        wrong.corrupt(9 * MIB)
        items = await download(a, digest, urls=[wrong.url, right.url])
        assert Path(items[-1]["path"]).read_bytes() == content
        assert wrong.requests
    other = await seeding_daemon(daemon_factory)
    async with file_server(content) as wrong:
        wrong.corrupt(0)
        with pytest.raises(Exception, match="no source sent the file"):
            await download(other, digest, urls=[wrong.url])
    files = list((other.state_dir).rglob(digest))
    assert files == [], "wrong bytes are discarded"


async def test_corrupt_web_source_beside_a_peer_is_banned(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    size = 48 * MIB
    digest = make_file(tmp_path / "f", size)
    content = (tmp_path / "f").read_bytes()
    a = await seeding_daemon(daemon_factory, upload_limit="8MiB/s")
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a)
    async with file_server(content) as wrong, file_server(content) as right:
        for piece in range(0, size, 4 * MIB):
            wrong.corrupt(piece)
        wrong.rate_bps = right.rate_bps = 2 * MIB
        items = await download(b, digest, urls=[wrong.url, right.url])
    assert Path(items[-1]["path"]).read_bytes() == content
    assert "sent wrong bytes" in b.log()
    assert items[-1]["from_peers"] > 0, "the peer sent, too"


async def test_missing_file_on_the_web_is_an_error_that_says_so(
    daemon_factory: DaemonFactory,
) -> None:
    a = await seeding_daemon(daemon_factory)
    async with file_server(b"x") as web:
        web.status = 404
        with pytest.raises(NotFound, match=r"nobody shares .*, and the web fails: .*404"):
            await download(a, "ab" * 32, urls=[web.url])


async def test_web_addresses_outlive_a_restart(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """The download goes on from the web after a kill, although the peer is gone."""
    size = 40 * MIB
    digest = make_file(tmp_path / "f", size)
    content = (tmp_path / "f").read_bytes()
    a = await seeding_daemon(daemon_factory, upload_limit="1MiB/s")
    await a.call("seeding.share", {"path": str(tmp_path / "f")})
    b = await seeding_daemon(daemon_factory, a)
    path = files_of(b.state_dir) / digest

    async with file_server(content) as web:
        web.rate_bps = 2 * MIB

        async def ask() -> None:
            with contextlib.suppress(Exception):
                await download(b, digest, urls=[web.url])

        async with beside(ask(), "download"):
            await wait_for(lambda: path.exists() and any(pieces_on(path, content)), 60)
            await wait_for(lambda: torrents(b), 30)
            await wait_for(lambda: "web" in saved(b.state_dir), 30)
            await b.kill()
        await a.stop()
        there = pieces_on(path, content)
        assert not all(there), "the test has to kill it in the middle"
        web.rate_bps, web.sent = 0, 0
        b = await seeding_daemon(daemon_factory, directory=b.directory)

        async def is_seeding() -> bool:
            return [row["state"] for row in await torrents(b)] == ["seeding"]

        await wait_for(is_seeding, 60)
        assert path.read_bytes() == content
        assert web.sent <= missing_bytes(there, size)
    assert "secret" not in b.log()


def saved(state_dir: Path) -> set[str]:
    """Fields that are set of what was saved of the torrent."""
    return {name for held in held_in(state_dir) for name, value in held if value}
