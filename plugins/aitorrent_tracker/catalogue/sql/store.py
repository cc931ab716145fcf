"""Reads and writes the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from aitorrent_tracker.catalogue.sql.database import Database, Statements, Value
from aitorrent_tracker.catalogue.sql.entries import (
    APPROVED,
    COLUMNS,
    PENDING,
    REMOVED,
    Entry,
    entry_of,
    searched_text,
    values_of,
)
from aitorrent_tracker.catalogue.sql.searching import Search, condition, listed
from aitorrentd.api import AitorrentError, Busy, Conflict, Denied, NotFound

CREATED: Final = "created"
UPDATED: Final = "updated"
UNCHANGED: Final = "unchanged"
_CHANGES: Final = 1000
"Rows that are read at once; the event loop waits while they become objects."
_TABLE: Final = "catalogue_publications"
_NEXT: Final = f"(SELECT COALESCE(MAX(changed), 0) + 1 FROM {_TABLE})"


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much strangers can make the catalogue keep."""

    entries: int = 1_000_000
    pending: int = 10_000
    per_publisher: int = 100_000


class Outcome(NamedTuple):
    """What a write did, and the entry as it is now."""

    what: str
    entry: Entry


class Model(NamedTuple):
    """The files of one repository together."""

    repo_id: str
    files: int
    revisions: int
    size: int
    published_at: int


class _Undone(Exception):
    """Rolls a transaction back."""


class Store:
    """The catalogue in a database."""

    def __init__(self, database: Database, capacity: Capacity) -> None:
        self.database = database
        self._capacity = capacity

    async def publish(
        self, new: Entry, *, nonce: str, supersedes: str, valid_until: int, metainfo: bytes
    ) -> Outcome:
        """Enter a publication whose signature was verified.

        Raises:
            Conflict: another torrent is published for this file, or the nonce was used. Denied: the
            operator removed it. Busy: there is no room.
        """
        async with self.database.writing() as tables:
            old = await _found(tables, new.key)
            if await _was_used(tables, new.publisher, nonce):
                if old is not None and old.signature == new.signature:
                    return Outcome(UNCHANGED, old)  # a client that did not get the answer
                raise Conflict("this publication was sent before; sign a new one, with a new nonce")
            outcome = await self._entered(tables, old, new, supersedes)
            await tables.rows(
                "INSERT INTO catalogue_nonces VALUES ($1, $2, $3)",
                new.publisher,
                nonce,
                valid_until,
            )
            if metainfo and outcome.entry.info_hash == new.info_hash:
                await tables.rows(
                    "INSERT INTO catalogue_metainfo VALUES ($1, $2) ON CONFLICT DO NOTHING",
                    new.info_hash,
                    metainfo,
                )
            return outcome

    async def _entered(
        self, tables: Statements, old: Entry | None, new: Entry, supersedes: str
    ) -> Outcome:
        if old is None:
            await self._check_room(tables, new)
            return Outcome(CREATED, await _insert(tables, new))
        if old.state == REMOVED:
            raise Denied("the operator of this catalogue removed this file")
        is_own = old.publisher == new.publisher
        # What waits for the operator, or was never signed, gives way to a publisher who is trusted.
        is_weaker = old.state == PENDING or not old.publisher
        if old.content != new.content:
            if not (is_own and supersedes == old.info_hash) and not (
                is_weaker and new.state == APPROVED
            ):
                raise Conflict(
                    f"{old.filename} is published with info-hash {old.info_hash}; only its"
                    " publisher can replace it, by naming that info-hash in `supersedes`",
                    info_hash=old.info_hash,
                )
        else:
            is_same = old.substance == new.substance and old.state in (new.state, APPROVED)
            if is_same if is_own else not (is_weaker and new.state == APPROVED):
                return Outcome(UNCHANGED, old)
        state = APPROVED if old.state == APPROVED and old.content == new.content else new.state
        updated = await _update(tables, replace(new, id=old.id, state=state))
        await _drop_metainfo(tables, old.info_hash)
        return Outcome(UPDATED, updated)

    async def _check_room(self, tables: Statements, new: Entry) -> None:
        counts = await tables.rows(
            f"SELECT COUNT(*) AS n FROM {_TABLE} UNION ALL"
            f" SELECT COUNT(*) FROM {_TABLE} WHERE publisher = $1 AND state != $2 UNION ALL"
            f" SELECT COUNT(*) FROM {_TABLE} WHERE state = $3",
            new.publisher,
            REMOVED,
            PENDING,
        )
        total, own, pending = (int(row["n"]) for row in counts)
        if total >= self._capacity.entries:
            raise Busy("this catalogue is full")
        if new.publisher and own >= self._capacity.per_publisher:
            raise Busy(f"you have published {own} files, which is the limit of this catalogue")
        if new.state == PENDING and pending >= self._capacity.pending:
            raise Busy("too many publications wait for the operator; try again later")

    async def add(
        self, entries: Sequence[Entry], *, is_dry: bool
    ) -> Sequence[Outcome | AitorrentError]:
        """Enter rows that nobody signed, of an older catalogue, in one transaction; for each what
        it did, or why it was refused. With `is_dry` nothing is kept."""
        outcomes: list[Outcome | AitorrentError] = []
        try:
            async with self.database.writing() as tables:
                outcomes += [await self._added(tables, new) for new in entries]
                if is_dry:
                    raise _Undone
        except _Undone:
            pass
        return outcomes

    async def _added(self, tables: Statements, new: Entry) -> Outcome | AitorrentError:
        old = await _found(tables, new.key)
        if old is None:
            try:
                await self._check_room(tables, new)
            except Busy as e:
                return e
            return Outcome(CREATED, await _insert(tables, new))
        if old.info_hash != new.info_hash:
            return Conflict(f"it is in the catalogue with info-hash {old.info_hash}")
        return Outcome(UNCHANGED, old)

    async def set_state(self, entry_id: int, state: str) -> Entry:
        """Approve or remove an entry.

        Raises:
            NotFound: there is none.
        """
        async with self.database.writing() as tables:
            rows = await tables.rows(
                f"UPDATE {_TABLE} SET state = $1, changed = {_NEXT} WHERE id = $2 RETURNING *",
                state,
                entry_id,
            )
            if not rows:
                raise NotFound(f"there is no publication {entry_id}")
            entry = entry_of(rows[0])
            if state == REMOVED:
                await _drop_metainfo(tables, entry.info_hash)
            return entry

    async def forget_nonces(self, now: int) -> None:
        """Forget nonces that no valid publication can have."""
        async with self.database.writing() as tables:
            await tables.rows("DELETE FROM catalogue_nonces WHERE expires_at < $1", now)

    async def search(
        self, search: Search, *, before: int, limit: int
    ) -> tuple[Sequence[Entry], int]:
        """Entries with an id below `before` (0 = no bound), the newest first, and how many match
        in all."""
        where, values = condition(search, has_words=self.database.has_words)
        (count,) = await self.database.rows(
            f"SELECT COUNT(*) AS n FROM {_TABLE} WHERE {where}", *values
        )
        if before:
            values.append(before)
            where += f" AND id < ${len(values)}"
        values.append(limit)
        rows = await self.database.rows(
            f"SELECT * FROM {_TABLE} WHERE {where} ORDER BY id DESC LIMIT ${len(values)}", *values
        )
        return [entry_of(row) for row in rows], int(count["n"])

    async def models(
        self, search: Search, *, offset: int, limit: int
    ) -> tuple[Sequence[Model], int]:
        """Repositories with a file that matches, the newest first, and how many there are."""
        where, values = condition(search, has_words=self.database.has_words)
        (count,) = await self.database.rows(
            f"SELECT COUNT(DISTINCT repo_id) AS n FROM {_TABLE} WHERE {where}", *values
        )
        n = len(values)
        rows = await self.database.rows(
            "SELECT repo_id, COUNT(*) AS files, COUNT(DISTINCT commit_hash) AS revisions,"
            " CAST(SUM(size) AS BIGINT) AS size, MAX(published_at) AS published_at"
            f" FROM {_TABLE} WHERE {where} GROUP BY repo_id"
            f" ORDER BY MAX(published_at) DESC, repo_id LIMIT ${n + 1} OFFSET ${n + 2}",
            *values,
            limit,
            offset,
        )
        return [Model(**{name: row[name] for name in Model._fields}) for row in rows], int(
            count["n"]
        )

    async def hashes_of(self, repos: Sequence[str], *, limit: int) -> dict[str, list[bytes]]:
        """Info-hashes of the approved files of repositories."""
        found: dict[str, list[bytes]] = {repo: [] for repo in repos}
        if not repos:
            return found
        values: list[Value] = [APPROVED]
        among = listed(values, list(repos))
        values.append(limit)
        rows = await self.database.rows(
            f"SELECT repo_id, info_hash FROM {_TABLE} WHERE state = $1 AND repo_id IN ({among})"
            f" LIMIT ${len(values)}",
            *values,
        )
        for row in rows:
            found[row["repo_id"]].append(bytes.fromhex(row["info_hash"]))
        return found

    async def files(self, repo_id: str, *, limit: int) -> Sequence[Entry]:
        """Approved files of a repository: the newest revision first, then by path."""
        rows = await self.database.rows(
            f"SELECT p.* FROM {_TABLE} p JOIN (SELECT commit_hash, MAX(id) AS newest"
            f" FROM {_TABLE} WHERE repo_id = $1 AND state = $2 GROUP BY commit_hash) r"
            " ON p.commit_hash = r.commit_hash WHERE p.repo_id = $1 AND p.state = $2"
            " ORDER BY r.newest DESC, p.filename LIMIT $3",
            repo_id,
            APPROVED,
            limit,
        )
        return [entry_of(row) for row in rows]

    async def sources(self, v2_root: str, size: int, *, limit: int) -> Sequence[Entry]:
        """Approved entries of the same bytes: the oldest first."""
        rows = await self.database.rows(
            f"SELECT * FROM {_TABLE} WHERE v2_root = $1 AND size = $2 AND state = $3"
            " ORDER BY id LIMIT $4",
            v2_root,
            size,
            APPROVED,
            limit,
        )
        return [entry_of(row) for row in rows]

    async def metainfo(self, info_hash: str) -> tuple[bytes, Entry]:
        """The .torrent file that came with a publication, and an approved entry that has it.

        Raises:
            NotFound: none was uploaded, or no approved entry has it.
        """
        rows = await self.database.rows(
            f"SELECT p.*, m.content FROM {_TABLE} p JOIN catalogue_metainfo m"
            " ON m.info_hash = p.info_hash WHERE p.info_hash = $1 AND p.state = $2"
            " ORDER BY p.id LIMIT 1",
            info_hash,
            APPROVED,
        )
        if not rows:
            raise NotFound("no .torrent file was uploaded for this info-hash; use its magnet link")
        return bytes(rows[0]["content"]), entry_of(rows[0])

    async def changes(self, since: int) -> tuple[int, Sequence[Entry]]:
        """Entries that changed after change `since`, and the number of the last change; repeat
        until there are none."""
        rows = await self.database.rows(
            f"SELECT * FROM {_TABLE} WHERE changed > $1 ORDER BY changed LIMIT $2", since, _CHANGES
        )
        return (rows[-1]["changed"] if rows else since), [entry_of(row) for row in rows]


async def _found(tables: Statements, key: tuple[str, str, str]) -> Entry | None:
    rows = await tables.rows(
        f"SELECT * FROM {_TABLE} WHERE repo_id = $1 AND commit_hash = $2 AND filename = $3", *key
    )
    return entry_of(rows[0]) if rows else None


async def _was_used(tables: Statements, publisher: str, nonce: str) -> bool:
    return bool(
        await tables.rows(
            "SELECT 1 FROM catalogue_nonces WHERE publisher = $1 AND nonce = $2", publisher, nonce
        )
    )


async def _insert(tables: Statements, entry: Entry) -> Entry:
    values = [*values_of(entry), searched_text(entry)]
    marks = ", ".join(f"${i + 1}" for i in range(len(values)))
    (row,) = await tables.rows(
        f"INSERT INTO {_TABLE} ({', '.join(COLUMNS)}, searched, changed)"
        f" VALUES ({marks}, {_NEXT}) RETURNING *",
        *values,
    )
    return entry_of(row)


async def _update(tables: Statements, entry: Entry) -> Entry:
    values = values_of(entry)
    sets = ", ".join(f"{name} = ${i + 1}" for i, name in enumerate(COLUMNS))
    (row,) = await tables.rows(
        f"UPDATE {_TABLE} SET {sets}, changed = {_NEXT} WHERE id = ${len(values) + 1} RETURNING *",
        *values,
        entry.id,
    )
    return entry_of(row)


async def _drop_metainfo(tables: Statements, info_hash: str) -> None:
    """Delete a .torrent file that no entry needs any more."""
    await tables.rows(
        "DELETE FROM catalogue_metainfo WHERE info_hash = $1 AND NOT EXISTS"
        f" (SELECT 1 FROM {_TABLE} WHERE info_hash = $1 AND state != $2)",
        info_hash,
        REMOVED,
    )
