"""Names of files, repositories and revisions that strangers chose, checked before anything uses
them.

A name that passes is displayed as it is, and may be joined to a directory: on no system does it
leave that directory or address something other than a file (CWE-22, CVE-2021-42574).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_MAX_PATH_CHARS: Final = 1024
_MAX_PART_BYTES: Final = 255
"The longest name of a file on ext4, XFS, Btrfs and ZFS."
_MAX_DEPTH: Final = 32
_MAX_REPO_CHARS: Final = 200
_REPO_PART: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_KINDS: Final = ("datasets", "spaces")
"Prefixes of repositories that hold no models, as the Hugging Face Hub writes them."
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_RESERVED: Final = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\..*)?", re.IGNORECASE
)
_FORBIDDEN: Final = frozenset('\\:*?"<>|')
"Separators and wildcards of Windows; a colon also names a stream of another file there."
_INVISIBLE: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"Control, formatting (right-to-left overrides are among these), surrogate, unassigned, line ends."


def check_path(path: str) -> str:
    """`path`, a relative POSIX path of a file such as `onnx/model.onnx`.

    Raises:
        ValueError: it is not safe to use or to display; the message says why.
    """
    if not path or len(path) > _MAX_PATH_CHARS:
        raise ValueError(f"must have 1 to {_MAX_PATH_CHARS} characters")
    parts = path.split("/")
    if len(parts) > _MAX_DEPTH:
        raise ValueError(f"must have at most {_MAX_DEPTH} parts")
    if _DRIVE.match(path):
        raise ValueError("must not start with a drive letter")
    for part in parts:
        _check_part(part)
    return path


def _check_part(part: str) -> None:
    if part in ("", ".", ".."):
        raise ValueError("must be relative, without empty parts, `.` and `..`")
    if any(unicodedata.category(c) in _INVISIBLE for c in part):
        raise ValueError("must not have control, invisible or direction-changing characters")
    if not _FORBIDDEN.isdisjoint(part):
        raise ValueError(f"must not have any of {' '.join(sorted(_FORBIDDEN))}")
    if part != unicodedata.normalize("NFC", part):
        raise ValueError("must be in Unicode normalization form C")
    if len(part.encode()) > _MAX_PART_BYTES:
        raise ValueError(f"must have parts of at most {_MAX_PART_BYTES} bytes")
    if part[0] == " " or part[-1] in " .":
        raise ValueError("must not have parts that start with a space, or end in a space or a dot")
    if _RESERVED.fullmatch(part):
        raise ValueError(f"must not have the part {part[:16]!r}, a device on Windows")


def check_repo(repo: str) -> str:
    """`repo`, the name of a repository: `org/name`, or `name` as old ones have it; `datasets/` or
    `spaces/` may precede it.

    Raises:
        ValueError: it is no such name.
    """
    parts = repo.split("/") if len(repo) <= _MAX_REPO_CHARS else []
    if len(parts) > 1 and parts[0] in _KINDS:
        del parts[0]
    if not 1 <= len(parts) <= 2 or not all(map(_REPO_PART.fullmatch, parts)):
        raise ValueError("must be a repository such as org/name: letters, digits, `.`, `-`, `_`")
    if ".." in repo or "--" in repo or repo.endswith(".git"):
        raise ValueError("must not have `..` or `--`, or end in .git")
    return repo


def check_commit(commit: str) -> str:
    """`commit`, a revision that never changes.

    Raises:
        ValueError: it is not 40 lower-case hexadecimal digits.
    """
    if not _COMMIT.fullmatch(commit):
        raise ValueError("must be a commit of 40 lower-case hexadecimal digits")
    return commit


def is_pickle(path: str) -> bool:
    """Whether files of this name are usually pickles, which run code when they are loaded."""
    return path.lower().endswith(_PICKLES)


_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".mar")
