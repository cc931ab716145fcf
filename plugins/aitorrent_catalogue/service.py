"""The catalogue client: finds, verifies and publishes, at every configured catalogue at once."""

from __future__ import annotations

import asyncio
import importlib
import secrets
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aitorrent_catalogue.answers import Listed, Listing, Taken, read_listing, read_taken
from aitorrent_catalogue.config import CatalogueConfig, ServerConfig
from aitorrentd.api import (
    AitorrentError,
    Conflict,
    InvalidParams,
    NotFound,
    PluginContext,
    ProtocolError,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.backoff import full_jitter_s
from aitorrentd.api.models.file_names import check_commit, check_repo
from aitorrentd.api.models.publications import Publication, read_publication, signed_map
from aitorrentd.api.models.weights import (
    KnownTorrent,
    ModelFiles,
    Published,
    WantedFile,
    WebSource,
)

if TYPE_CHECKING:
    from aitorrent_catalogue.connection import CatalogueConnection

T = TypeVar("T")
Outcome = asyncio.Future[list[Taken]]
"What each catalogue said to a publication."
ATTEMPTS: Final = 3
"At a server that cannot be reached, or does not answer in time."
FRESH_S: Final = 60.0
"How long an answer to a search by digest is remembered."
MAX_REMEMBERED: Final = 1024
CHECK_S: Final = 8.0
"For the answer that `doctor` asks for, which has 10 s."
PAGE: Final = 100
MAX_FILES: Final = 5000
"Of one model."


class CatalogueClient:
    """An index of torrents, and a scheme of model names, for other plugins."""

    def __init__(self, ctx: PluginContext) -> None:
        self.config: CatalogueConfig = ctx.config
        self._ctx = ctx
        self._connections: dict[str, CatalogueConnection] = {}
        self._found: OrderedDict[str, tuple[float, Sequence[KnownTorrent]]] = OrderedDict()
        self._expected: dict[Published, Outcome] = {}
        "Publications that a command waits for."

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            await connection.close()

    # An index of torrents

    async def find(self, sha256: str) -> Sequence[KnownTorrent]:
        """See `TorrentIndex.find`; those with the most seeders first."""
        now = self._ctx.clock.monotonic()
        until, known = self._found.get(sha256, (0.0, ()))
        if now < until:
            return known
        listings = await self._everywhere(lambda one: self._page(one, {"sha256": sha256}))
        entries = sorted(
            (entry for listing in listings for entry in listing.entries),
            key=lambda entry: -entry.seeders,
        )
        best: dict[str, KnownTorrent] = {}
        for entry in entries:
            before = best.get(entry.publication.info_hash)
            trackers = tuple(dict.fromkeys((*(before.trackers if before else ()), *entry.trackers)))
            best[entry.publication.info_hash] = _known(entry, trackers)
        found = [await self._with_metainfo(torrent, entries) for torrent in best.values()]
        self._found[sha256] = (now + FRESH_S, found)
        self._found.move_to_end(sha256)
        if len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)
        return found

    async def _with_metainfo(self, known: KnownTorrent, entries: Sequence[Listed]) -> KnownTorrent:
        """With the .torrent file, if a catalogue has it: it spares asking peers for it."""
        for entry in entries:
            if entry.publication.info_hash == known.info_hash:
                try:
                    raw = await self._named(entry.server).metainfo(known.info_hash)
                except AitorrentError:
                    continue  # peers have it
                return _known(entry, known.trackers, raw)
        return known

    async def publish(self, torrent: KnownTorrent, source: Published) -> Sequence[str]:
        """See `TorrentIndex.publish`; what has no repository and commit is not published."""
        is_known = bool(source.repo_id and source.revision and source.filename)
        if not self.config.publish or not self.config.servers or not is_known:
            return ()
        outcome = self._expected.get(source)
        try:
            done = await self.publish_signed(self._signed(torrent, source), torrent.metainfo)
        except AitorrentError as e:
            if outcome is not None and not outcome.done():
                outcome.set_exception(e)
            raise
        if outcome is not None and not outcome.done():
            outcome.set_result(done)
        self._found.pop(torrent.sha256, None)
        listed = (each.trackers for each in done if each.state == "approved")
        return tuple(dict.fromkeys(url for urls in listed for url in urls))

    @contextmanager
    def expecting(self, source: Published) -> Iterator[Outcome]:
        """What the catalogues say to the publication that begins in this block.

        Raises:
            Conflict: the same is being published.
        """
        if source in self._expected:
            raise Conflict(f"{source.filename} is being published")
        outcome: Outcome = asyncio.get_running_loop().create_future()
        self._expected[source] = outcome
        try:
            yield outcome
        finally:
            del self._expected[source]
            outcome.cancel()

    def _signed(self, torrent: KnownTorrent, source: Published) -> dict[str, Any]:
        publication = Publication(
            repo_id=source.repo_id,
            commit_hash=source.revision,
            filename=source.filename,
            size=torrent.size,
            sha256=torrent.sha256,
            info_hash=torrent.info_hash,
            v2_root=torrent.v2_root,
            piece_length=torrent.piece_length,
            created_at=int(self._ctx.clock.time()),
            publisher=self._ctx.identity.peer_id,
            nonce=secrets.token_hex(16),
        )
        try:
            read_publication(publication.as_map())
        except ProtocolError as e:
            raise InvalidParams(f"cannot be published: {e.message}") from None
        return signed_map(publication, publication.signed_by(self._ctx.identity))

    async def publish_signed(self, signed: Mapping[str, Any], metainfo: bytes) -> list[Taken]:
        """Publish at every catalogue; what each said.

        Raises:
            AitorrentError: none of them took it.
        """
        body = {**signed, "metainfo": b64encode(metainfo).decode()} if metainfo else signed

        async def at(one: CatalogueConnection) -> Taken:
            return read_taken(await one.publish(body), one.name)

        return await self._everywhere(at)

    # A scheme of model names

    async def resolve(self, name: str, revision: str = "") -> ModelFiles:
        """See `ModelNames.resolve`."""
        try:
            asked = {"repo_id": check_repo(name)}
            if revision not in ("", "main"):
                asked["commit_hash"] = check_commit(revision.lower())
        except ValueError as e:
            raise NotFound(f"catalogue://{name[:80]}: {e}") from None
        entries = await self.everything(asked)
        if not entries:
            what = f"revision {revision} of {name}" if revision else name
            raise NotFound(f"no catalogue lists {what}; see `aitorrentctl catalogue search`")
        newest = max(entries, key=lambda entry: entry.publication.created_at)
        commit = newest.publication.commit_hash
        files = {
            entry.publication.filename: entry.publication
            for entry in entries
            if entry.publication.commit_hash == commit
        }
        return ModelFiles(
            name, commit, tuple((path, _wanted(files[path])) for path in sorted(files))
        )

    # For commands

    async def search(
        self, asked: Mapping[str, str], text: str, limit: int
    ) -> tuple[list[Listed], list[Listing]]:
        """Verified entries of every catalogue, each publication once, and the listings."""
        listings = await self._everywhere(
            lambda one: self._page(one, asked, text=text, limit=limit)
        )
        seen: dict[tuple[str, ...], Listed] = {}
        for listing in listings:
            for entry in listing.entries:
                key = (*entry.publication.key, entry.publication.info_hash)
                before = seen.get(key)
                if before is None or before.seeders < entry.seeders:
                    seen[key] = entry
        return list(seen.values())[:limit], listings

    async def everything(self, asked: Mapping[str, str]) -> list[Listed]:
        """All verified entries that match, page by page."""

        async def all_of(one: CatalogueConnection) -> list[Listed]:
            entries: list[Listed] = []
            cursor = ""
            while len(entries) < MAX_FILES:
                page = await self._page(one, asked, limit=PAGE, cursor=cursor)
                entries += page.entries
                if not page.cursor or page.cursor == cursor:
                    break
                cursor = page.cursor
            return entries

        return [entry for entries in await self._everywhere(all_of) for entry in entries]

    async def _page(
        self,
        one: CatalogueConnection,
        asked: Mapping[str, str],
        *,
        text: str = "",
        limit: int = PAGE,
        cursor: str = "",
    ) -> Listing:
        query: dict[str, str | int] = {"limit": limit}
        query |= {"revision" if k == "commit_hash" else k: v for k, v in asked.items()}
        query |= {k: v for k, v in (("q", text), ("cursor", cursor)) if v}
        listing = read_listing(
            await one.listing(query), one.name, asked=asked, believed=self.config.publishers
        )
        for lie in listing.lies[:1]:
            self._ctx.log.warning(
                "catalogue %s lies, or is broken: %d of its entries do not verify: %s",
                one.name, len(listing.lies), lie,
            )  # fmt: skip
        return listing

    async def problems(self) -> list[AitorrentError]:
        """What is wrong with catalogues now: each is asked once for its newest entry."""

        async def problem(server: ServerConfig) -> AitorrentError | None:
            try:
                async with asyncio.timeout(CHECK_S):
                    listing = await self._page(await self._connection(server), {}, limit=1)
            except AitorrentError as e:
                return e
            except TimeoutError:
                return TimedOut(f"{server.url} does not answer within {CHECK_S:g} s")
            return ProtocolError(f"{server.url}: {listing.lies[0]}") if listing.lies else None

        found = await asyncio.gather(*map(problem, self.config.servers))
        return [each for each in found if each is not None]

    # Servers

    def _named(self, name: str) -> CatalogueConnection:
        return next(each for each in self._connections.values() if each.name == name)

    async def _connection(self, server: ServerConfig) -> CatalogueConnection:
        if server.url not in self._connections:
            # The import of httpx takes longer than the event loop may block.
            module = await asyncio.to_thread(
                importlib.import_module, "aitorrent_catalogue.connection"
            )
            if server.url not in self._connections:
                self._connections[server.url] = module.CatalogueConnection(
                    server, self.config.timeout_s
                )
        return self._connections[server.url]

    async def _everywhere(self, ask: Callable[[CatalogueConnection], Awaitable[T]]) -> list[T]:
        """What the catalogues answered; those that failed are left out, unless all did.

        Raises:
            AitorrentError: none answered.
        """
        if not self.config.servers:
            raise Unavailable(
                "no catalogue is configured; add its URL to plugins.catalogue.servers"
            )
        asked = (self._persistently(server, ask) for server in self.config.servers)
        outcomes = await asyncio.gather(*asked)
        answers = [outcome for outcome in outcomes if not isinstance(outcome, AitorrentError)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, AitorrentError)]
        if not answers:
            raise errors[0]
        for error in errors:
            self._ctx.log.info("%s", error.message)
        return answers

    async def _persistently(
        self, server: ServerConfig, ask: Callable[[CatalogueConnection], Awaitable[T]]
    ) -> T | AitorrentError:
        attempt = 0
        while True:
            try:
                return await ask(await self._connection(server))
            except AitorrentError as e:
                # A publication may be sent again: the server knows its nonce.
                attempt += 1
                if attempt == ATTEMPTS or not isinstance(e, (TimedOut, Unavailable)):
                    return e
            await asyncio.sleep(full_jitter_s(attempt, draw=self._ctx.random.random()))


def _known(entry: Listed, trackers: tuple[str, ...], metainfo: bytes = b"") -> KnownTorrent:
    publication = entry.publication
    return KnownTorrent(
        sha256=publication.sha256,
        size=publication.size,
        info_hash=publication.info_hash,
        piece_length=publication.piece_length,
        trackers=trackers,
        metainfo=metainfo,
        v2_root=publication.v2_root,
        publisher=publication.publisher,
    )


def _wanted(publication: Publication) -> WantedFile:
    return WantedFile(
        publication.sha256,
        publication.size,
        publication.filename,
        tuple(WebSource(url) for url in publication.web_seeds),
    )
