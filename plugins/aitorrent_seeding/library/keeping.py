"""What makes a verified file stay as it is: no write permission, and its bytes on the disk.

A killed daemon loses nothing, since the kernel has what it wrote. A power cut takes what the kernel
had not written yet, while size and time of the file may be right already.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from pathlib import Path
from typing import Final

from aitorrentd.api import Unavailable, open_regular

_READ_ONLY: Final = 0o444
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def make_read_only(path: Path) -> None:
    """Nobody writes to a verified file."""
    with contextlib.suppress(OSError):  # another user's file system may not allow it
        os.chmod(path, _READ_ONLY)


def write_to_disk(path: Path) -> None:
    """Wait until a power cut loses no byte of the file; blocks.

    Raises:
        Unavailable: the disk failed.
    """
    try:
        fd = open_regular(path)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except OSError as e:
        text = f"cannot write {path} to the disk: {e.strerror}; check the disk (dmesg)"
        raise Unavailable(text) from None


@functools.cache
def boot_id() -> str:
    """Another one after each start of the machine."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def delete_below(path: Path, below: Path) -> None:
    """Delete a file or folder that was fetched, if it lies below `below`."""
    if not path.resolve().is_relative_to(below.resolve()) or path.resolve() == below.resolve():
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
