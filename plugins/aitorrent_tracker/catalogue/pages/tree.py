"""The files of a model as lines of a tree: folders, then what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aitorrent_tracker.catalogue.rest.showing import Shower
from aitorrent_tracker.catalogue.sql.entries import Entry
from aitorrentd.api.models.file_names import is_pickle


def rows_of(files: Sequence[Entry], shower: Shower, announced: str) -> list[dict[str, Any]]:
    """One row for each folder and file; files of a folder before its folders."""
    return list(_rows(sorted(files, key=_order), shower, announced))


def _order(entry: Entry) -> tuple[tuple[int, str], ...]:
    *folders, name = entry.filename.split("/")
    return (*((1, folder) for folder in folders), (0, name))


def _rows(files: Sequence[Entry], shower: Shower, announced: str) -> Iterator[dict[str, Any]]:
    shown: list[str] = []
    for entry in files:
        *folders, name = entry.filename.split("/")
        same = 0
        while same < min(len(shown), len(folders)) and shown[same] == folders[same]:
            same += 1
        for depth in range(same, len(folders)):
            yield {"is_folder": True, "name": folders[depth], "depth": min(depth, 8)}
        shown = folders
        yield {
            "is_folder": False,
            "name": name or f"whole folder, {entry.file_count} files",
            "depth": min(len(folders), 8),
            "size": entry.size,
            "sha256": entry.sha256,
            "seeds": shower.counts(entry).seeds,
            "magnet": shower.magnet(entry, announced),
            "is_pickle": is_pickle(name),
            "publisher": entry.publisher,
        }
