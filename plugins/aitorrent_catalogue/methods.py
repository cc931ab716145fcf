"""Control methods of the catalogue client: `catalogue.*`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, cast

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_catalogue.answers import Listed, Taken
from aitorrent_catalogue.service import CatalogueClient
from aitorrentd.api import CallContext, InvalidParams, Method, PluginContext, Role, TimedOut
from aitorrentd.api.models.file_names import check_commit, check_path, check_repo, is_pickle
from aitorrentd.api.models.weights import WEIGHTS, Published

PUBLISHED_S: Final = 120.0
"How long a shared file may take until it is published."
_HEX64: Final = r"^[0-9a-fA-F]{64}$"


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchParams(_Shape):
    """What to look for; everything given must match."""

    text: str = Field("", max_length=512, description="words in repository or path")
    repo_id: str = Field("", max_length=200, description="repository, such as org/name")
    revision: str = Field("", max_length=40, description="commit of 40 hexadecimal digits")
    filename: str = Field("", max_length=1024, description="path in the repository")
    sha256: Annotated[str, Field(pattern=rf"^$|{_HEX64}")] = Field("", description="of the file")
    publisher: str = Field("", max_length=64, description="peer id of the publisher")
    limit: int = Field(50, ge=1, le=200, description="most files to return")


class FileView(_Shape):
    """A publication whose signature was verified."""

    repo_id: str = Field(description="repository")
    revision: str = Field(description="commit, 40 digits")
    filename: str = Field(description="path in the repository")
    size: int = Field(description="bytes")
    sha256: str = Field(description="of the file")
    info_hash: str = Field(description="of its v1 torrent")
    publisher: str = Field(description="peer id of who signed it")
    seeders: int = Field(description="as the catalogue counts them; not verified")
    gated: bool = Field(description="whether the owner decides who may download it")
    pickle: bool = Field(description="whether loading files of this name can run code")
    server: str = Field(description="catalogue that lists it")


class SearchResult(_Shape):
    """What catalogues list."""

    files: list[FileView] = Field(description="verified publications")
    total: int = Field(description="most matches that one catalogue has")
    rejected: int = Field(
        description="entries that did not verify; the catalogue lies or is broken"
    )
    unsigned: int = Field(description="entries that nobody signed, which are left out")


class ShowParams(_Shape):
    """A model."""

    name: str = Field(min_length=1, max_length=200, description="repository, such as org/name")
    revision: str = Field("", max_length=40, description="commit; empty for the newest")


class ShowResult(_Shape):
    """The files of one revision."""

    repo_id: str = Field(description="repository")
    revision: str = Field(description="commit, 40 digits")
    size: int = Field(description="bytes of all files")
    files: list[FileView] = Field(description="by path")


class PublishParams(_Shape):
    """A file to share and to publish."""

    path: str = Field(min_length=1, max_length=4096, description="absolute path of the file")
    repo_id: str = Field(max_length=200, description="repository that it is of")
    revision: str = Field(max_length=40, description="commit that it is of")
    filename: str = Field(max_length=1024, description="its path in the repository")


class OutcomeView(_Shape):
    """What a catalogue did with a publication."""

    server: str = Field(description="catalogue")
    outcome: str = Field(description="created, updated or unchanged")
    state: str = Field(description="approved, or pending until the operator approves it")


class PublishResult(_Shape):
    """What became of a publication."""

    sha256: str = Field(description="of the file")
    servers: list[OutcomeView] = Field(description="catalogues that took it")


def catalogue_methods(ctx: PluginContext, client: CatalogueClient) -> Iterator[Method]:
    """All methods."""

    async def search(call: CallContext, params: BaseModel) -> SearchResult:
        asked = cast(SearchParams, params)
        names = {"commit_hash": asked.revision.lower(), "sha256": asked.sha256.lower()}
        names |= {n: getattr(asked, n) for n in ("repo_id", "filename", "publisher")}
        exact = {name: value for name, value in names.items() if value}
        entries, listings = await client.search(exact, asked.text, asked.limit)
        return SearchResult(
            files=[_view(entry) for entry in entries],
            total=max((listing.total for listing in listings), default=0),
            rejected=sum(len(listing.lies) for listing in listings),
            unsigned=sum(listing.unsigned for listing in listings),
        )

    async def show(call: CallContext, params: BaseModel) -> ShowResult:
        asked = cast(ShowParams, params)
        files = await client.resolve(asked.name, asked.revision)
        exact = {"repo_id": files.name, "commit_hash": files.revision}
        best: dict[str, Listed] = {}
        for entry in await client.everything(exact):
            name = entry.publication.filename
            if name not in best or best[name].seeders < entry.seeders:
                best[name] = entry
        return ShowResult(
            repo_id=files.name,
            revision=files.revision,
            size=sum(entry.publication.size for entry in best.values()),
            files=[_view(best[name]) for name in sorted(best)],
        )

    async def publish(call: CallContext, params: BaseModel) -> PublishResult:
        asked = cast(PublishParams, params)
        source = Published(
            _checked("repository", check_repo, asked.repo_id),
            _checked("revision", check_commit, asked.revision),
            _checked("name", check_path, asked.filename),
        )
        sha256, outcomes = await _shared(ctx, client, Path(asked.path), source)
        servers = [OutcomeView(server=o.server, outcome=o.outcome, state=o.state) for o in outcomes]
        return PublishResult(sha256=sha256, servers=servers)

    yield Method(
        "catalogue.search", search, "Search catalogues; every entry is verified.",
        SearchParams, SearchResult,
    )  # fmt: skip
    yield Method("catalogue.show", show, "The files of a model.", ShowParams, ShowResult)
    yield Method(
        "catalogue.publish", publish, "Share a file, and publish it at the catalogues.",
        PublishParams, PublishResult, role=Role.OPERATE,
    )  # fmt: skip


async def _shared(
    ctx: PluginContext, client: CatalogueClient, path: Path, source: Published
) -> tuple[str, list[Taken]]:
    """Seed a file, which publishes it, and wait for what the catalogues say."""
    if not client.config.publish:
        raise InvalidParams("publishing is off; set plugins.catalogue.publish to true")
    with client.expecting(source) as published:
        sha256 = await ctx.service(WEIGHTS).offer(path, published=source)
        try:
            async with asyncio.timeout(PUBLISHED_S):
                return sha256, await published
        except TimeoutError:
            raise TimedOut(
                f"{path.name} is shared, but was not published within {PUBLISHED_S:g} s"
            ) from None


def _view(entry: Listed) -> FileView:
    publication = entry.publication
    return FileView(
        repo_id=publication.repo_id,
        revision=publication.commit_hash,
        filename=publication.filename,
        size=publication.size,
        sha256=publication.sha256,
        info_hash=publication.info_hash,
        publisher=publication.publisher,
        seeders=entry.seeders,
        gated=publication.gated,
        pickle=is_pickle(publication.filename),
        server=entry.server,
    )


def _checked(what: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except ValueError as e:
        raise InvalidParams(f"cannot be published: the {what} {e}") from None
