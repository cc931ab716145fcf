"""What people reported of BitTorrent clients: names, files that were moved, and deleted ones.

Each report was made with qBittorrent, libtorrent, Transmission or mkbrr, and is named beside its
case.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from aitorrent_seeding.torrents import bencode
from aitorrent_seeding.torrents.folders import files_below
from aitorrentd.api import InvalidParams
from tests.support.nodes import DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.shards.folder_weights import digest_of

PIECE = 2**16
NAMES = (
    "a" * 251 + ".bin",  # qBittorrent 10521, 2754: 255 bytes
    "é" * 125 + ".bin",
    "Fre\u0301de\u0301ric.bin",  # Transmission 6704, mkbrr 182: decomposed
    "Fr\u00e9d\u00e9ric.bin",  # and composed, beside it
    "ReadMe.txt",  # libtorrent 7607: names that differ in case only
    "readme.txt",
    "two\nlines",
    "-rf",
    " lead and trail ",
    "100% %2e%2e $HOME `x` \\ : * ?",
    "\U0001f600.safetensors",
)


async def test_files_with_any_name_are_shared_and_fetched(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    digests = {name: make_file(folder / name, 20_000 + n, n) for n, name in enumerate(NAMES)}
    os.link(folder / "readme.txt", folder / "z second link")
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(MIB)
    a = await seeding_daemon(daemon_factory)
    shared = await a.call("seeding.share", {"path": str(folder)})
    assert {Path(f["path"]).name: f["sha256"] for f in shared["files"]}.items() >= digests.items()
    b = await seeding_daemon(daemon_factory, a)
    for file in shared["files"]:
        items = await download(b, file["magnet"])
        assert Path(items[-1]["path"]).read_bytes() == Path(file["path"]).read_bytes()


async def test_torrent_of_another_program_with_long_names_is_where_it_is_said_to_be(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """qBittorrent 7038, 17405: libtorrent cuts names at 240 bytes."""
    b = await seeding_daemon(daemon_factory)
    session = lt.session({"listen_interfaces": "127.0.0.1:0", "enable_dht": False})
    await wait_for(session.listen_port, 10)
    peer = f"127.0.0.1:{session.listen_port()}"
    for n, name in enumerate(("x" * 250 + ".bin", "y" * 255)):
        top = tmp_path / f"seed{n}"
        make_file(top / name / name if n else top / name, 50_000, seed=n)
        raw = torrent_with(name, [name] if n else [], (top / name / name if n else top / name))
        params = lt.load_torrent_buffer(raw)
        params.save_path = str(top)
        path = f"{name}/{name}" if n else name
        params.renamed_files = {0: path}
        session.add_torrent(params)
        link = f"magnet:?xt=urn:btih:{params.info_hashes.v1}&x.pe={peer}"
        items = await download(b, link)
        fetched = Path(items[-1]["path"])
        fetched = fetched / name if n else fetched
        assert fetched.read_bytes() == (top / path).read_bytes()
    del session


def torrent_with(name: str, inside: list[str], file: Path) -> bytes:
    """A torrent of one file, alone or in a folder, as a program makes it that cuts no names."""
    content = file.read_bytes()
    pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
    info: dict[bytes, object] = {
        b"name": name.encode(),
        b"piece length": PIECE,
        b"pieces": b"".join(hashlib.sha1(piece).digest() for piece in pieces),
    }
    if inside:
        info[b"files"] = [{b"length": len(content), b"path": [part.encode() for part in inside]}]
    else:
        info[b"length"] = len(content)
    return bencode.encode({b"info": info})


async def test_file_that_was_moved_is_shared_from_its_new_place(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """qBittorrent 4454, 9317: torrents whose files were moved, and files that are gone."""
    digest = make_file(tmp_path / "old", 3 * MIB)
    a = await seeding_daemon(daemon_factory)
    b = await seeding_daemon(daemon_factory, a)
    await a.call("seeding.share", {"path": str(tmp_path / "old")})
    shutil.move(tmp_path / "old", tmp_path / "new")
    shared = await a.call("seeding.share", {"path": str(tmp_path / "new")})
    assert [file["path"] for file in shared["files"]] == [str(tmp_path / "new")]
    items = await download(b, digest)
    assert Path(items[-1]["path"]).read_bytes() == (tmp_path / "new").read_bytes()
    assert [row["path"] for row in await torrents(a)] == [str(tmp_path / "new")]

    (tmp_path / "new").unlink()
    await a.stop()
    a = await seeding_daemon(daemon_factory, directory=a.directory)
    (row,) = await wait_for(lambda: torrents(a), 10)
    assert row["state"] == "missing"
    assert not (tmp_path / "new").exists(), "what a user deleted does not come back"
    await a.call("seeding.remove", {"which": digest})
    assert await torrents(a) == []


def test_what_cannot_be_shared_is_named(tmp_path: Path) -> None:
    """Links and pipes in a folder, and names in another encoding."""
    bad: dict[str, tuple[bytes, Any]] = {
        "is a symbolic link": (b"link", lambda path: os.symlink("/etc/passwd", path)),
        "is neither a file nor a folder": (b"pipe", os.mkfifo),
        r"caf\\xe9 is not UTF-8; rename the file": (
            b"caf\xe9",
            os.mknod,
        ),
    }
    for says, (name, make) in bad.items():
        folder = tmp_path / name.decode(errors="replace")
        folder.mkdir()
        make(os.fsencode(folder) + b"/" + name)
        with pytest.raises(InvalidParams, match=says):
            files_below(folder)
    with pytest.raises(InvalidParams, match="cannot read .*: File name too long"):
        files_below(tmp_path / ("x" * 300))


async def test_deleted_file_stops_its_torrent_with_one_warning_and_goes_on_when_it_is_back(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """qBittorrent 18374, 23645, 23652: it stayed "seeding", and the log was flooded."""
    file, kept = tmp_path / "m.safetensors", tmp_path / "elsewhere"
    digest = make_file(file, 3 * MIB)
    a = await seeding_daemon(daemon_factory)
    await a.call("seeding.share", {"path": str(file)})
    file.rename(kept)
    b = await seeding_daemon(daemon_factory, a)
    async with await b.client(120) as client:

        async def first() -> None:
            async for _ in client.stream("seeding.download", {"what": digest}):
                pass

        asking = asyncio.create_task(first())

        async def stopped() -> Any:
            (row,) = await torrents(a)
            return row["problem"] if row["state"] == "stopped" else ""

        assert str(file) in await wait_for(stopped, 60)
        asking.cancel()
        await asyncio.wait({asking})
    assert a.log().count(str(file)) <= 2
    kept.rename(file)
    assert (await a.call("seeding.resume", {"which": digest}))["problem"] == ""
    items = await download(b, digest)
    assert digest_of(Path(items[-1]["path"])) == digest
