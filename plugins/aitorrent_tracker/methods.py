"""Control methods of the tracker: `tracker.*`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_tracker.catalogue.sql.store import CREATED, UNCHANGED
from aitorrent_tracker.service import TrackerService
from aitorrentd.api import CallContext, Method, NoParams, Role, Unavailable

MAX_DOCUMENTS: Final = 1000


class StatsResult(BaseModel):
    """What the tracker keeps and did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listening: list[str] = Field(description="addresses in use, such as 0.0.0.0:6969/tcp")
    open: bool = Field(description="whether every info-hash is served, as configured")
    private: bool = Field(description="whether clients need an announce key, as configured")
    listed: int = Field(description="number of info-hashes in the configuration")
    published: int = Field(description="number of files listed in the catalogue")
    problem: str = Field(description="why the catalogue is not available; empty if it is")
    storage: str = Field(description="where swarms are kept, as configured: memory, or a Redis")
    storage_problem: str = Field(description="why swarms are not shared; empty if they are")
    swarms: int = Field(description="number of torrents with peers")
    seeds: int = Field(description="peers that have everything")
    leechers: int = Field(description="peers that are downloading")
    completed: int = Field(description="downloads completed since the plugin started")
    unlisted: int = Field(
        description="announces of peers that were not stored because of a limit, since the start"
    )
    expired: int = Field(description="peers that stopped announcing, since the start")
    connections: int = Field(description="open TCP connections")
    counts: dict[str, int] = Field(description="number of events since the start, by name")


class ImportParams(BaseModel):
    """Documents of an older catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: list[dict[str, Any]] = Field(
        max_length=MAX_DOCUMENTS, description="as mongoexport writes them"
    )
    dry_run: bool = Field(False, description="whether to write nothing")


class RefusedDocument(BaseModel):
    """A document that was not entered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(description="of the document, from 0")
    name: str = Field(description="repository and path, as it has them")
    reason: str = Field(description="why it was refused")


class ImportResult(BaseModel):
    """What became of documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: int = Field(description="number of documents that were entered")
    unchanged: int = Field(description="number of documents that the catalogue had")
    refused: list[RefusedDocument] = Field(description="the others")


def tracker_methods(service: TrackerService) -> Iterator[Method]:
    """All methods."""

    def stats(call: CallContext, params: BaseModel) -> StatsResult:
        tracker, config, catalogue = service.tracker, service.config, service.catalogue
        return StatsResult(
            listening=service.listening,
            open=config.open,
            private=bool(config.keys),
            listed=len(config.torrents),
            published=catalogue.listed if catalogue is not None else 0,
            problem="it is not enabled" if catalogue is None else catalogue.problem,
            storage=config.storage,
            storage_problem=service.exchange.problem if service.exchange else "",
            connections=len(service.http),
            counts=dict(sorted(tracker.counts.items())),
            **tracker.storage.statistics()._asdict(),
        )

    async def import_(call: CallContext, params: BaseModel) -> ImportResult:
        asked = cast(ImportParams, params)
        if service.catalogue is None:
            raise Unavailable("the catalogue is off; set plugins.tracker.catalogue.enabled to true")
        report = await service.catalogue.enter(asked.documents, is_dry=asked.dry_run)
        return ImportResult(
            created=report.counts[CREATED],
            unchanged=report.counts[UNCHANGED],
            refused=[
                RefusedDocument(number=number, name=name, reason=reason)
                for number, name, reason in report.refused
            ],
        )

    yield Method(
        "tracker.import", import_, "Enter documents of an older catalogue.",
        ImportParams, ImportResult, role=Role.OPERATE,
    )  # fmt: skip
    yield Method("tracker.stats", stats, "What the tracker keeps and did.", NoParams, StatsResult)
