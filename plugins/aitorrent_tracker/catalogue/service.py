"""The catalogue service: the database, what it lists, and who may change it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Final

from aitorrent_tracker.answering.access import Access
from aitorrent_tracker.catalogue.config import CatalogueConfig
from aitorrent_tracker.catalogue.importing.importing import Report, import_documents
from aitorrent_tracker.catalogue.listing import Listing
from aitorrent_tracker.catalogue.publishing import Publishers
from aitorrent_tracker.catalogue.sql.database import Database
from aitorrent_tracker.catalogue.sql.entries import Entry
from aitorrent_tracker.catalogue.sql.postgres import open_postgres
from aitorrent_tracker.catalogue.sql.sqlite import open_sqlite
from aitorrent_tracker.catalogue.sql.store import Capacity, Outcome, Store
from aitorrentd.api import AitorrentError, Busy, Conflict, PluginContext, Unavailable
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.tasks import Tasks

FOLLOW_S: Final = 1.0
"How often changes of other trackers on the same database are read."
FORGET_S: Final = 600.0
"How often nonces that expired are deleted."


class Catalogue:
    """Publications in a database; while it cannot be used, `problem` says why."""

    def __init__(self, ctx: PluginContext, config: CatalogueConfig, access: Access) -> None:
        self.config = config
        self.problem = "the catalogue's database is being opened"
        self.publishers = Publishers(config, lambda: int(ctx.clock.time()))
        self._ctx = ctx
        self._listing = Listing(access)
        self._seen = 0
        "The number of the last change that the listing knows."
        self._store: Store | None = None
        self._following = asyncio.Lock()
        self._secret = os.urandom(32)
        token = config.admin_token
        self._token = self._hashed(token.get_secret_value()) if token else b""

    @property
    def listed(self) -> int:
        """How many publications are listed."""
        return len(self._listing)

    @property
    def can_grow(self) -> bool:
        """Whether anything is listed, or may be."""
        return self.listed > 0 or bool(self.config.publishers) or self.config.others != "refuse"

    @property
    def store(self) -> Store:
        """The database.

        Raises:
            Unavailable: it cannot be used now.
        """
        if self._store is None:
            raise Unavailable(self.problem)
        return self._store

    @property
    def has_admin(self) -> bool:
        """Whether there is an administrator's token."""
        return bool(self._token)

    def is_admin(self, token: str) -> bool:
        """Whether this is the administrator's token."""
        return self.has_admin and compare_digest(self._hashed(token), self._token)

    def _hashed(self, token: str) -> bytes:
        return blake2b(token.encode(), key=self._secret).digest()

    async def publish(self, body: object) -> Outcome:
        """Enter what a publisher posted; see `Publishers.checked` and `Store.publish` for errors.

        Raises:
            AitorrentError: it is refused.
        """
        checked = self.publishers.checked(body)
        outcome = await self.store.publish(
            checked.entry,
            nonce=checked.publication.nonce,
            supersedes=checked.publication.supersedes,
            valid_until=checked.valid_until,
            metainfo=checked.metainfo,
        )
        await self.follow()
        return outcome

    async def set_state(self, entry_id: int, state: str) -> Entry:
        """Approve or remove; see `Store.set_state`."""
        entry = await self.store.set_state(entry_id, state)
        await self.follow()
        return entry

    async def enter(self, documents: Sequence[Mapping[str, Any]], *, is_dry: bool) -> Report:
        """Enter documents of an older catalogue; see `import_documents`."""
        now = int(self._ctx.clock.time())
        report = await import_documents(self.store, documents, now=now, is_dry=is_dry)
        await self.follow()
        return report

    async def follow(self) -> None:
        """Make the tracker serve what is approved in the database now."""
        async with self._following:
            while True:
                number, entries = await self.store.changes(self._seen)
                if not entries:
                    return
                self._listing.follow(entries)
                self._seen = number

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the database open while the block runs; returns before it is open."""
        tasks = Tasks(self._ctx.tasks)
        tasks.spawn(self._keep(), "catalogue: database")
        try:
            yield
        finally:
            await tasks.close()

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                async with self._opened() as database:
                    self._store = self._store_of(database)
                    await self.follow()
                    self._tell("")
                    attempt = 0
                    await self._maintain(database)
            except (Busy, Conflict, Unavailable, sqlite3.Error) as e:
                self._tell(e.message if isinstance(e, AitorrentError) else str(e))
            finally:
                self._store = None
            await asyncio.sleep(equal_jitter_s(attempt, draw=self._ctx.random.random()))
            attempt += 1

    def _opened(self) -> AbstractAsyncContextManager[Database]:
        url = self.config.database
        return open_sqlite(self._ctx) if url is None else open_postgres(url.get_secret_value())

    def _store_of(self, database: Database) -> Store:
        limits = self.config.limits
        return Store(database, Capacity(limits.entries, limits.pending, limits.per_publisher))

    def _tell(self, problem: str) -> None:
        if problem and not self.problem.startswith(problem):
            self._ctx.log.warning("the catalogue is not available: %s", problem)
        elif not problem and self.problem:
            name = self.store.database.name
            self._ctx.log.info("catalogue in %s: %d publications", name, self.listed)
        self.problem = problem

    async def _maintain(self, database: Database) -> None:
        """Follow other trackers, and forget nonces, until the database fails."""
        forget_at = self._ctx.clock.monotonic()
        while True:
            now = self._ctx.clock.monotonic()
            if now >= forget_at:
                await self.store.forget_nonces(int(self._ctx.clock.time()))
                forget_at = now + FORGET_S
            await asyncio.sleep(FOLLOW_S)
            if database.is_shared:
                await self.follow()
