"""The files of a model as lines of a tree: folders, then what is in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from aitorrent_tracker.catalogue.rest.showing import Shower
from aitorrent_tracker.catalogue.sql.entries import Entry
from aitorrentd.api.models.file_names import is_pickle

Folder = tuple[str, ...]
_DEEPEST: Final = 8
"Lines are indented no further."


def rows_of(files: Sequence[Entry], shower: Shower, announced: str) -> list[dict[str, Any]]:
    """One row for each folder and file; files of a folder before its folders."""
    return list(_rows(sorted(files, key=_order), shower, announced))


def _order(entry: Entry) -> tuple[tuple[int, str], ...]:
    *folders, name = entry.filename.split("/")
    return (*((1, folder) for folder in folders), (0, name))


def _rows(files: Sequence[Entry], shower: Shower, announced: str) -> Iterator[dict[str, Any]]:
    inside: defaultdict[Folder, set[str]] = defaultdict(set)
    for entry in files:
        *folders, name = entry.filename.split("/")
        for depth, folder in enumerate(folders):
            inside[tuple(folders[:depth])].add(f"{folder}/")
        inside[tuple(folders)].add(name)
    shown: list[Folder] = []
    for entry in files:
        *folders, name = entry.filename.split("/")
        lines = _lines(folders, inside)
        same = 0
        while same < min(len(shown), len(lines)) and shown[same] == lines[same]:
            same += 1
        for depth in range(same, len(lines)):
            above = len(lines[depth - 1]) if depth else 0
            label = "/".join(lines[depth][above:])
            yield {"is_folder": True, "name": label, "depth": min(depth, _DEEPEST)}
        shown = lines
        yield {
            "is_folder": False,
            "name": name or f"whole folder, {entry.file_count} files",
            "depth": min(len(lines), _DEEPEST),
            "size": entry.size,
            "sha256": entry.sha256,
            "seeds": shower.counts(entry).seeds,
            "magnet": shower.magnet(entry, announced),
            "is_pickle": is_pickle(name),
            "publisher": entry.publisher,
        }


def _lines(folders: Sequence[str], inside: Mapping[Folder, set[str]]) -> list[Folder]:
    """The folders on the way to a file that get a line: one that holds nothing but a single folder
    shares that folder's line."""
    paths = [tuple(folders[: depth + 1]) for depth in range(len(folders))]
    return [
        path
        for path in paths
        if len(inside[path]) > 1 or not next(iter(inside[path])).endswith("/")
    ]
