"""Searches of the catalogue, as conditions in SQL. Texts of strangers are only ever parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aitorrent_tracker.catalogue.sql.database import Value
from aitorrent_tracker.catalogue.sql.entries import APPROVED

MAX_WORDS: Final = 8
TRIGRAM: Final = 3
"Characters of the shortest word that an index finds."
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


def condition(search: Search, *, has_words: bool) -> tuple[str, list[Value]]:
    """A condition with parameters from `$1`, and their values; see `Database.has_words`."""
    parts, values = ["state = $1"], [search.state]
    for column in _EXACT:
        if value := getattr(search, column):
            values.append(value)
            parts.append(f"{column} = ${len(values)}")
    words = search.text.casefold().split()[:MAX_WORDS]
    if has_words and (indexed := [word for word in words if _has_trigrams(word)]):
        values.append(" ".join(map(_phrase, indexed)))
        found = f"SELECT rowid FROM catalogue_words WHERE catalogue_words MATCH ${len(values)}"
        # `+` keeps SQLite from reading every approved row by the index on states instead.
        parts[0] = "+state = $1"
        parts.append(f"id IN ({found})")
        words = [word for word in words if not _has_trigrams(word)]
    for word in words:
        values.append(f"%{_literally(word)}%")
        parts.append(f"searched LIKE ${len(values)} ESCAPE '!'")
    return " AND ".join(parts), list(values)


def _has_trigrams(word: str) -> bool:
    return len(word) >= TRIGRAM


def _phrase(word: str) -> str:
    """The word as FTS5 takes it literally."""
    return '"' + word.replace('"', '""') + '"'


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
