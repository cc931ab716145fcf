"""Searches of the catalogue, as conditions in SQL. Texts of strangers are only ever parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aitorrent_tracker.catalogue.sql.database import Value
from aitorrent_tracker.catalogue.sql.entries import APPROVED

MAX_WORDS: Final = 8
_EXACT: Final = ("sha256", "repo_id", "commit_hash", "filename", "publisher", "info_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for; empty texts match everything."""

    text: str = ""
    "Words that repository or path contain, in any order; case does not matter."
    sha256: str = ""
    repo_id: str = ""
    commit_hash: str = ""
    filename: str = ""
    publisher: str = ""
    info_hash: str = ""
    state: str = APPROVED


def condition(search: Search) -> tuple[str, list[Value]]:
    """A condition with parameters from `$1`, and their values."""
    parts, values = ["state = $1"], [search.state]
    for column in _EXACT:
        if value := getattr(search, column):
            values.append(value)
            parts.append(f"{column} = ${len(values)}")
    for word in search.text.casefold().split()[:MAX_WORDS]:
        values.append(f"%{_literally(word)}%")
        parts.append(f"searched LIKE ${len(values)} ESCAPE '!'")
    return " AND ".join(parts), list(values)


def _literally(word: str) -> str:
    """The word with no wildcard in it."""
    for special in "!%_":
        word = word.replace(special, f"!{special}")
    return word


def listed(values: list[Value], more: list[str]) -> str:
    """Parameters for `IN (…)`; appends their values."""
    first = len(values) + 1
    values += more
    return ", ".join(f"${first + i}" for i in range(len(more)))
