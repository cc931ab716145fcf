"""The files of a folder that is shared."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from aitorrentd.api import Denied, InvalidParams, NotFound

MAX_FILES: Final = 10_000


def files_below(path: Path) -> list[tuple[Path, int]]:
    """The file at `path`, or every file of that folder, in order, with its size; blocks.

    Raises:
        InvalidParams: there are symbolic links, special files, or too many files. NotFound,
        Denied: it cannot be read.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return [(path, _size(path, status))]
        found = _walk(path)
    except FileNotFoundError as e:
        raise NotFound(f"there is no {e.filename}") from None
    except PermissionError as e:
        text = f"cannot read {e.filename} as uid {os.geteuid()}"
        raise Denied(f"{text}; let the user of the daemon read it") from None
    except OSError as e:  # a name that is too long, a loop of links, a disk that fails
        raise InvalidParams(f"cannot read {e.filename or path}: {e.strerror}") from None
    if not found:
        raise InvalidParams(f"{path} has no files")
    return found


def _walk(folder: Path) -> list[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                found += _walk(Path(entry.path))
            else:
                found.append((Path(entry.path), _size(Path(entry.path), status)))
            if len(found) > MAX_FILES:
                raise InvalidParams(f"{folder} has over {MAX_FILES} files")
    return found


def _size(path: Path, status: os.stat_result) -> int:
    if stat.S_ISLNK(status.st_mode):
        raise InvalidParams(f"{path} is a symbolic link; share the file that it points to")
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InvalidParams(f"the name {shown} is not UTF-8; rename the file") from None
    if not stat.S_ISREG(status.st_mode):
        raise InvalidParams(f"{path} is neither a file nor a folder")
    return status.st_size
