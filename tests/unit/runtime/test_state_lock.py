"""The state directory: what is said when it takes nothing."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from aitorrentd.errors import AitorrentError, ConfigError, Conflict, Denied, Unavailable
from aitorrentd.runtime.state_lock import state_lock
from aitorrentd.system.files import make_directory


def test_second_daemon_is_told_which_process_holds_the_state(tmp_path: Path) -> None:
    with (
        state_lock(tmp_path),
        pytest.raises(Conflict, match=rf"another daemon \(pid {os.getpid()}\) uses"),
        state_lock(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOLCK, Unavailable),  # the lock server of a network file system is down
        (errno.EIO, Unavailable),
        (errno.EOPNOTSUPP, ConfigError),
        (errno.ENOSYS, ConfigError),
    ],
)
def test_file_system_without_locks_is_said(
    number: int, kind: type[AitorrentError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with (
        pytest.raises(
            kind, match=rf"cannot lock {tmp_path}/lock: .*; set node.state_dir to a local disk"
        ),
        state_lock(tmp_path),
    ):
        pass


def test_full_disk_is_said_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, raw: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(
            Unavailable, match=rf"cannot write to {tmp_path}/.*: the disk is full; free some space"
        ),
        state_lock(tmp_path),
    ):
        pass


def test_read_only_file_system_is_told_from_a_lack_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(Denied, match="permission denied.*chown it to uid"):
        make_directory(tmp_path, setting="node.state_dir")
    read_only = os.statvfs_result((4096,) * 8 + (os.ST_RDONLY, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: read_only)
    with pytest.raises(Denied, match="read-only file system; set node.state_dir, or remount it"):
        make_directory(tmp_path, setting="node.state_dir")
