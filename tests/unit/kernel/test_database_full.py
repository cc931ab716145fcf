"""A database on a full disk: the message says so, and never asks for a backup."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from aitorrentd.errors import Unavailable
from aitorrentd.kernel.context import database


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
async def test_full_disk_is_told_at_the_first_write(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 4, 0, 0, 1, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)

    def statements(script: str) -> list[str]:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(database, "statements", statements)
    with pytest.raises(
        Unavailable, match=r"the disk is full: cannot write the database .*\.sqlite"
    ):
        async with database.open_database(tmp_path / "x.sqlite", {1: "CREATE TABLE t (a)"}):
            pass
