"""Copies of downloaded files in a folder of the user: whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from aitorrentd.cli import toolkit

_FICLONE: Final = 0x40049409
"ioctl_ficlone(2)."
_BLOCK: Final = 8 * 2**20


def place(path: Path, folder: Path, name: str) -> Path:
    """Copy a verified file, or folder, into `folder` under `name`; without copying where the file
    system shares blocks.

    Raises:
        CommandFailed: it cannot be written.
    """
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    target = folder.joinpath(*parts or [path.name])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with toolkit.Progress() as bar:
            copy = _copier(bar)
            if path.is_dir():
                shutil.copytree(path, target, copy_function=copy, dirs_exist_ok=True)
            else:
                copy(path, target)
    except shutil.Error as e:
        where, _, why = e.args[0][0]
        toolkit.fail(f"cannot copy {where}: {why}; the files are at {path}")
    except OSError as e:
        toolkit.fail(f"cannot write {target}: {e.strerror}; the file is at {path}")
    return target


def _copier(bar: toolkit.Progress) -> Callable[..., None]:
    def copy(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        """Copy a file; `target` appears, or is replaced, once its copy is complete."""
        # A shared file is fetched from where it lies, which may be the target.
        if os.path.exists(target) and os.path.samefile(path, target):
            return
        with open(path, "rb") as source, toolkit.replacing(Path(target)) as sink:
            size = os.fstat(source.fileno()).st_size
            try:
                fcntl.ioctl(sink.fileno(), _FICLONE, source.fileno())
            except OSError:
                while block := source.read(_BLOCK):
                    sink.write(block)
                    state = {"text": "copying", "done": source.tell(), "total": size}
                    bar({**state, "unit": "B"})

    return copy
