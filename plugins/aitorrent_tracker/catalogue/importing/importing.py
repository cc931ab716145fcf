"""Enters documents of an older catalogue, and says which were refused and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aitorrent_tracker.catalogue.importing.documents import entry_of_document
from aitorrent_tracker.catalogue.sql.entries import Entry
from aitorrent_tracker.catalogue.sql.store import Store
from aitorrentd.api import AitorrentError


@dataclass(slots=True)
class Report:
    """What became of documents."""

    counts: Counter[str] = field(default_factory=Counter)
    "Of `created` and `unchanged`."
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    "Number of the document, what it calls itself, and the reason."


async def import_documents(
    store: Store, documents: Sequence[Mapping[str, Any]], *, now: int, is_dry: bool
) -> Report:
    """Enter documents; entered again, they are unchanged. With `is_dry` nothing is written.

    Raises:
        Unavailable: the database cannot be used; none of these documents was entered.
    """
    report = Report()
    entries: list[tuple[int, Entry]] = []
    for number, document in enumerate(documents):
        try:
            entries.append((number, entry_of_document(document, now)))
        except AitorrentError as e:
            report.refused.append((number, _name(document), e.message))
    outcomes = await store.add([entry for _, entry in entries], is_dry=is_dry)
    for (number, _), outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, AitorrentError):
            report.refused.append((number, _name(documents[number]), outcome.message))
        else:
            report.counts[outcome.what] += 1
    report.refused.sort()
    return report


def _name(document: Mapping[str, Any]) -> str:
    parts = [document.get(name) for name in ("repo_id", "filename")]
    return "/".join(part for part in parts if isinstance(part, str))[:200] or "no repo_id"
