"""Control methods of the hub plugin: `hub.*`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_hub.files.describing import Refused
from aitorrent_hub.scan.layout import Candidate
from aitorrent_hub.scan.scanning import Found, Scanning
from aitorrent_hub.service import HubService
from aitorrent_hub.upstream.described import Place, target_of
from aitorrentd.api import (
    CallContext,
    Conflict,
    Denied,
    InvalidParams,
    Method,
    NoParams,
    NotFound,
    PluginContext,
    Role,
    bytes_text,
)
from aitorrentd.api.models.file_names import check_path, check_repo
from aitorrentd.api.models.weights import WEIGHTS

MAX_ROWS: Final = 5_000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StatusResult(_Model):
    """What the mirror keeps and did."""

    upstream: str = Field(description="the Hub behind the mirror")
    listening: list[str] = Field(description="addresses of the mirror, such as 127.0.0.1:8042")
    problem: str = Field(description="why the mirror does not listen; empty if it does")
    swarm: bool = Field(description="whether the seeding plugin runs, so that swarms are used")
    files: int = Field(description="files in the mirror's cache")
    bytes: int = Field(description="their size in bytes")
    downloads: int = Field(description="downloads from the Hub that run")
    fetched_bytes: int = Field(description="bytes from the Hub since the plugin started")
    wrong_files: int = Field(description="files that came with wrong bytes since the start")
    sent: dict[str, int] = Field(
        description="bytes to programs since the start, by source: here, swarm, hub"
    )
    requests: dict[str, int] = Field(description="requests since the start, by kind")


class AcquireParams(_Model):
    """A file, as huggingface_hub knows it."""

    repo: str = Field(description="org/name; with datasets/ or spaces/ in front for other kinds")
    revision: str = Field(max_length=256, description="branch, tag or commit")
    path: str = Field(description="path of the file in the repository")
    etag: str = Field(
        pattern="^[0-9a-f]{64}$", description="the SHA-256 that the Hub told the caller"
    )
    endpoint: str = Field("", max_length=2048, description="the Hub that the caller asked")


class AcquireResult(_Model):
    """A file that is whole and verified."""

    path: str = Field(description="where it is; it must not be changed")
    size: int = Field(description="bytes")
    mirror: str = Field(description="URL of the file at the mirror; empty without a mirror")


class ScanParams(_Model):
    """Where to look."""

    directory: str = Field(description="absolute path of a cache, or of a local_dir")
    repo: str = Field("", description="the repository of a local_dir, which does not say it")


class ScanRow(_Model):
    """A file that was found."""

    repo: str = Field(description="repository; empty if unknown")
    commit: str = Field(description="commit")
    path: str = Field(description="path in the repository")
    sha256: str = Field(description="digest that the file should have")
    size: int = Field(description="bytes")
    state: str = Field(description="seeded, verified, small, wrong, not public, unknown or refused")
    reason: str = Field(description="why it is not seeded; empty if it is")


class ScanResult(_Model):
    """What a scan found."""

    files: list[ScanRow] = Field(description=f"at most {MAX_ROWS} files; small ones are left out")
    counts: dict[str, int] = Field(description="number of files by state")


def hub_methods(service: HubService, ctx: PluginContext) -> Iterator[Method]:
    """All methods."""

    async def status(call: CallContext, params: BaseModel) -> StatusResult:
        return StatusResult(
            upstream=service.config.upstream,
            listening=service.listening,
            problem=service.problem,
            swarm=ctx.optional(WEIGHTS) is not None,
            fetched_bytes=service.store.fetched_bytes,
            wrong_files=service.store.wrong_files,
            sent=dict(service.sources.sent),
            requests=dict(sorted(service.mirror.counts.items())),
            **await service.store.statistics(),
        )

    async def acquire(call: CallContext, params: AcquireParams) -> AcquireResult:
        return await _acquire(service, call, params)

    async def scan(call: CallContext, params: ScanParams) -> ScanResult:
        return await _scan(service, ctx, call, params)

    yield Method("hub.status", status, "What the mirror keeps and did.", NoParams, StatusResult)
    yield Method(
        "hub.acquire",
        acquire,
        "Fetch a public file from a swarm or the Hub, and verify it.",
        AcquireParams,
        AcquireResult,
    )
    yield Method(
        "hub.scan",
        scan,
        "Verify files that huggingface_hub downloaded, and seed those that are public.",
        ScanParams,
        ScanResult,
        role=Role.OPERATE,
    )


async def _acquire(service: HubService, call: CallContext, params: AcquireParams) -> AcquireResult:
    endpoint = params.endpoint.rstrip("/")
    own = [service.config.upstream, *(f"http://{address}" for address in service.listening)]
    if endpoint and endpoint not in own:
        raise NotFound(f"this node mirrors {service.config.upstream}, not {endpoint}")
    try:
        place = Place(check_repo(params.repo), params.revision, check_path(params.path))
    except ValueError as e:
        raise InvalidParams(f"the repository or path {e}") from None
    try:
        file, is_public = await service.describing.describe(place, [])
    except Refused as e:
        raise Denied(f"the Hub answers {e.status} without a token") from None
    if not is_public:
        raise Denied(f"{place.repo} is gated or private")
    if file.digest != params.etag:
        raise Conflict(f"{place.path} has another digest at the Hub now")

    place = Place(place.repo, file.commit, place.path)  # a branch may move meanwhile

    def progress(done: int) -> None:
        call.progress(place.path, done=done, total=file.size, unit="B")

    opened = partial(service.hub.file, target_of(place), [])
    path = await service.sources.whole(file, place, opened, progress)
    mirror = service.listening[0] if service.listening else ""
    return AcquireResult(
        path=str(path),
        size=path.stat().st_size,
        mirror=f"http://{mirror}{target_of(place)}" if mirror else "",
    )


async def _scan(
    service: HubService, ctx: PluginContext, call: CallContext, params: ScanParams
) -> ScanResult:
    directory = Path(params.directory)
    if not directory.is_absolute():
        raise InvalidParams(f"{params.directory!r} is not an absolute path")
    if params.repo:
        try:
            check_repo(params.repo)
        except ValueError as e:
            raise InvalidParams(f"the repository {e}") from None

    def progress(candidate: Candidate) -> None:
        call.progress(f"{candidate.filename} ({bytes_text(candidate.size)})")

    scanning = Scanning(
        service.describing, lambda: ctx.optional(WEIGHTS), smallest=service.config.swarm_min
    )
    rows: list[ScanRow] = []
    counts: dict[str, int] = {}
    async for found in scanning.scan(directory, params.repo, progress):
        counts[found.state] = counts.get(found.state, 0) + 1
        if found.state != "small" and len(rows) < MAX_ROWS:
            rows.append(_row(found))
    return ScanResult(files=rows, counts=counts)


def _row(found: Found) -> ScanRow:
    candidate = found.candidate
    return ScanRow(
        repo=candidate.repo,
        commit=candidate.commit,
        path=candidate.filename,
        sha256=candidate.sha256,
        size=candidate.size,
        state=found.state,
        reason=found.reason,
    )
