"""Where huggingface_hub keeps files, and which digest it believes they have.

Formats: https://huggingface.co/docs/huggingface_hub/guides/manage-cache; for a `local_dir`, the
files `.cache/huggingface/download/PATH.metadata` with commit, ETag and time, one a line.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrentd.api import read_regular
from aitorrentd.api.models.file_names import check_commit, check_path, check_repo
from aitorrentd.api.models.weights import is_sha256

MAX_FILES: Final = 200_000
_KINDS: Final = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
_RECORDS: Final = Path(".cache/huggingface/download")
_SUFFIX: Final = ".metadata"
_MAX_RECORD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be the one that the Hub has under its digest."""

    path: Path
    "Without symbolic links."
    sha256: str
    "What it should have; not verified."
    size: int
    repo: str
    "With `datasets/` or `spaces/` in front; empty if unknown."
    commit: str
    filename: str
    "Path in the repository."


def candidates(directory: Path, repo: str = "") -> Iterator[Candidate]:
    """Large files below `directory`, a cache or a `local_dir`, each digest once. `repo` names the
    repository of a `local_dir`, which does not say it.

    Raises:
        OSError: it cannot be read.
    """
    seen: set[str] = set()
    records = directory / _RECORDS
    found = _local(directory, records, repo) if records.is_dir() else _cache(directory)
    for candidate in found:
        if candidate.sha256 not in seen:
            seen.add(candidate.sha256)
            yield candidate
        if len(seen) >= MAX_FILES:
            return


def _cache(directory: Path) -> Iterator[Candidate]:
    root = directory.resolve()
    for folder in sorted(root.iterdir()):
        kind, _, rest = folder.name.partition("--")
        if kind not in _KINDS or not (folder / "snapshots").is_dir():
            continue
        repo = _KINDS[kind] + rest.replace("--", "/")
        for commit in sorted((folder / "snapshots").iterdir()):
            for path in _files(commit):
                blob = _target(path)
                name = Path(os.path.realpath(path))
                if blob is None or not name.is_relative_to(root):
                    continue
                found = _candidate(name, blob, repo, commit.name, path.relative_to(commit))
                if found is not None:
                    yield found


def _target(link: Path) -> str | None:
    """The name of the blob to which a snapshot's link leads first: its ETag."""
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return None


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(place, name)


def _local(directory: Path, records: Path, repo: str) -> Iterator[Candidate]:
    root = directory.resolve()
    for record in _files(records):
        if not record.name.endswith(_SUFFIX):
            continue
        inside = record.relative_to(records)
        filename = inside.with_name(inside.name.removesuffix(_SUFFIX))
        try:
            lines = read_regular(record, _MAX_RECORD_BYTES).decode().splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        path = Path(os.path.realpath(root / filename))
        if len(lines) < 2 or not path.is_relative_to(root):
            continue
        found = _candidate(path, lines[1].strip().strip('"'), repo, lines[0].strip(), filename)
        if found is not None:
            yield found


def _candidate(path: Path, etag: str, repo: str, commit: str, filename: Path) -> Candidate | None:
    try:
        status = path.stat()
        if repo:
            check_repo(repo)
        check_commit(commit)
        name = check_path(filename.as_posix())
    except (OSError, ValueError):
        return None
    if not is_sha256(etag) or not stat.S_ISREG(status.st_mode):
        return None
    return Candidate(path, etag, status.st_size, repo, commit, name)
