"""Whoever has a file derives the same torrent, and libtorrent makes the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from aitorrent_seeding.torrents import canonical, metainfo
from aitorrent_seeding.torrents.canonical import GIB, MIB
from aitorrent_seeding.torrents.hashing import Stop, hash_file
from aitorrentd.api import Conflict, InvalidParams, NotFound, Unavailable

SMALL = b"weights" * 1000


def by_libtorrent(path: Path, piece_length: int, *, hybrid: bool) -> bytes:
    flags: Any = 0 if hybrid else lt.create_torrent.v1_only
    made = lt.create_torrent(lt.list_files(str(path)), piece_length, flags)
    lt.set_piece_hashes(made, str(path.parent))
    whole: Any = made.generate()
    return bytes(lt.bencode({k: whole[k] for k in (b"info", b"piece layers") if k in whole}))


def test_torrent_of_a_small_file_is_the_one_of_every_version(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(SMALL)
    hashes, _ = hash_file(tmp_path / "model.safetensors")
    digest = hashlib.sha256(SMALL).hexdigest()
    piece = hashlib.sha1(SMALL).digest()
    expected = b"d4:infod6:lengthi7000e4:name64:%b12:piece lengthi4194304e6:pieces20:%bee" % (
        digest.encode(),
        piece,
    )
    assert canonical.metainfo(hashes) == expected
    info_hash = metainfo.read(expected).info_hash
    assert info_hash == "90c182dd373fc673280598970cd2ad651f670abc"


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize(
    "size", [1, 16_384, 16_385, 4 * MIB, 4 * MIB + 1, 9 * MIB + 5], ids=lambda n: f"{n} bytes"
)
def test_libtorrent_makes_the_same_torrent(size: int, hybrid: bool, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    path = tmp_path / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    hashes, stamp = hash_file(path, hybrid=hybrid)
    made = canonical.metainfo(hashes)
    assert made == by_libtorrent(path, hashes.piece_length, hybrid=hybrid)
    assert stamp.size == size
    read = metainfo.read(made)
    assert read.info_hash == str(lt.load_torrent_buffer(made).info_hashes.v1)
    assert (read.size, read.is_single) == (size, True)


def test_private_torrent_has_another_info_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(SMALL)
    hashes, _ = hash_file(tmp_path / "f")
    public = metainfo.read(canonical.metainfo(hashes))
    private = metainfo.read(canonical.metainfo(hashes, private=True))
    assert (public.is_private, private.is_private) == (False, True)
    assert public.info_hash != private.info_hash


@pytest.mark.parametrize(
    ("size", "length"),
    [(1, 4), (16 * GIB - 1, 4), (16 * GIB, 8), (64 * GIB - 1, 8), (64 * GIB, 16), (900 * GIB, 16)],
)
def test_piece_length_follows_from_the_size(size: int, length: int) -> None:
    assert canonical.piece_length(size) == length * MIB


def test_symbolic_links_and_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_bytes(SMALL)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(InvalidParams, match="is a symbolic link"):
        hash_file(tmp_path / "link")
    with pytest.raises(InvalidParams, match="is empty"):
        hash_file(tmp_path / "empty")
    with pytest.raises(NotFound, match="there is no file"):
        hash_file(tmp_path / "none")


def test_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(5 * MIB))

    def grow(done: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(Conflict, match="changed while it was hashed"):
        hash_file(path, progress=grow)


def test_hashing_reports_progress_and_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(9 * MIB))
    seen: list[int] = []
    hash_file(path, progress=seen.append)
    assert seen == [4 * MIB, 8 * MIB, 9 * MIB]
    stop = Stop()
    with pytest.raises(Unavailable, match="interrupted"):
        hash_file(path, stop=stop, progress=lambda done: stop.set())
