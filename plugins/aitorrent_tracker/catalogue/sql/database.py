"""A database, as the catalogue uses it: numbered parameters, short transactions, two dialects."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

Value = str | int | bytes
Row = Mapping[str, Any]

_NUMBERED: Final = re.compile(r"\$(\d+)")


class Statements(Protocol):
    """Runs statements whose parameters are `$1`, `$2` … in the order of `values`."""

    async def rows(self, sql: str, *values: Value) -> Sequence[Row]:
        """What the statement returns.

        Raises:
            Unavailable: the database cannot be used now.
        """


class Database(Statements, Protocol):
    """The database of the catalogue."""

    name: str
    "What people call it; without a password."
    is_shared: bool
    "Whether other processes write to it."

    has_words: bool
    "Whether the table `catalogue_words` finds words; if not, an index helps LIKE to."

    def writing(self) -> AbstractAsyncContextManager[Statements]:
        """A transaction. There is one at a time, also among processes, so that what is committed
        later has a higher number.

        Raises:
            Unavailable: the database cannot be used now; nothing was written.
        """


def for_sqlite(sql: str) -> str:
    """The statement with the numbered parameters of SQLite."""
    return _NUMBERED.sub(r"?\1", sql)
