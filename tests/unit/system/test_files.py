"""Files that are opened without waiting, and replaced or created in one step."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from aitorrentd.errors import AitorrentError, ConfigError, Denied, Unavailable
from aitorrentd.system.files import (
    cannot_write,
    create_file,
    make_directory,
    open_regular,
    read_regular,
    replace_file,
    replacing,
    set_aside,
)


def test_file_is_replaced_when_its_successor_is_whole(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 255)
    file.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), replacing(file) as new:
        new.write(b"half")
        raise RuntimeError("halfway")
    assert file.read_bytes() == b"old"
    with replacing(file) as new:
        new.write(b"whole")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"whole"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "folder"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", file.name]


def test_reads_a_regular_file_and_one_byte_beyond_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abcdef")
    assert read_regular(file, 6) == b"abcdef"
    assert read_regular(file, 3) == b"abcd"


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null")):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
        assert os.listdir("/proc/self/fd") == before
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


def test_directory_that_may_not_be_entered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    barred = tmp_path / "srv"
    state = barred / "node" / "state"
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != barred and barred not in Path(path).parents
    )
    error = cannot_write(state, OSError(errno.EACCES, "Permission denied"), setting="node.state")
    assert isinstance(error, Denied)
    assert error.message == (
        f"cannot write to {state}: permission denied; set node.state, or let uid {os.geteuid()} "
        f"enter {barred} (chmod +x)"
    )


@pytest.mark.parametrize(
    ("number", "is_fatal"), [(errno.EINVAL, False), (errno.EOPNOTSUPP, False), (errno.EIO, True)]
)
def test_directory_that_cannot_be_synchronised_is_no_failure(
    number: int, is_fatal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    if is_fatal:
        with pytest.raises(OSError, match="Input/output error"):
            create_file(tmp_path / "key", b"text")
    else:
        assert create_file(tmp_path / "key", b"text")
        replace_file(tmp_path / "key", b"other")
        assert (tmp_path / "key").read_bytes() == b"other"


@pytest.mark.parametrize("durable", [True, False])
def test_replaced_file_has_exactly_its_mode_and_leaves_nothing_beside(
    tmp_path: Path, durable: bool
) -> None:
    file = tmp_path / "file"
    umask = os.umask(0o077)
    try:
        for content in (b"old", b"new"):
            replace_file(file, content, mode=0o644, durable=durable)
    finally:
        os.umask(umask)
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_failed_replacement_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    replace_file(file, b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("has_links", [True, False])
def test_created_file_never_replaces_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_links(_source: object, _target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    file = tmp_path / "file"
    assert create_file(file, b"first")
    assert not create_file(file, b"second")
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, Unavailable, "the disk is full; free some space there, or set node.state"),
        (errno.EDQUOT, Unavailable, "disk quota exceeded; free some space there"),
        (errno.EIO, Unavailable, "input/output error; check the disk"),
        (errno.EMFILE, Unavailable, "too many open files"),
        (errno.EACCES, Denied, "permission denied; set node.state, or chown it to uid"),
        (errno.EROFS, Denied, "read-only file system; set node.state, or remount it writable"),
        (errno.ENOTDIR, ConfigError, "not a directory; set node.state to another place"),
        (errno.ELOOP, ConfigError, "too many levels of symbolic links"),
    ],
)
def test_error_of_writing_tells_a_full_disk_from_a_wrong_setting(
    number: int,
    kind: type[AitorrentError],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = OSError(number, os.strerror(number))
    told = cannot_write(tmp_path, error, setting="node.state")
    assert type(told) is kind
    assert said in told.message

    def mkdir(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(kind, match="set node.state"):
        make_directory(tmp_path / "new", setting="node.state")


def test_damaged_file_is_set_aside_and_the_last_one_kept(tmp_path: Path) -> None:
    file = tmp_path / "contacts"
    for content in (b"first", b"second"):
        file.write_bytes(content)
        aside = set_aside(file)
        assert not file.exists()
        assert aside == tmp_path / "contacts.damaged"
        assert aside.read_bytes() == content
