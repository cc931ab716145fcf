"""Control methods of the shards plugin: local models, all known spans, open sessions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aitorrent_shards.answering.availability import own_loading
from aitorrent_shards.service import ShardsService
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import CallContext, Method, NoParams


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


Names = Annotated[
    dict[str, str],
    Field(description="self-chosen names by peer id; only ids are proven"),
]


class ModelRow(_Row):
    """A model of this node."""

    name: str = Field(description="name that clients use")
    path: str = Field(description="folder with the files of the model")
    source: str = Field(description="where the files are fetched from; empty if they lie here")
    is_added: bool = Field(description="whether a command added it, not the configuration")
    layers: str = Field(description="layers this node computes, as configured")
    state: str = Field(
        description="fetching, reading, starting, loading, ready, restarting, failed, unloading,"
        " unloaded (until a request needs it) or stopped"
    )
    progress: float | None = Field(
        description="share done so far: of the files while fetching or reading, of the weights "
        "while loading; null otherwise"
    )
    done_bytes: int = Field(description="bytes so far, while fetching, reading or loading")
    total_bytes: int = Field(description="bytes to fetch or read; 0 while unknown")
    problem: str = Field(description="why it failed or restarts; empty otherwise")
    covered: bool = Field(description="whether every layer is held by some reachable node")
    digest: str = Field(
        description="SHA-256 of weights, configuration and tokenizer, hex; empty while being "
        "read, or without weights"
    )
    dtype: str = Field(
        description="float32, bfloat16 or float16; empty until the layers are loaded"
    )
    weight_bytes: int = Field(description="size of the loaded layers; 0 until they are loaded")
    rss_bytes: int | None = Field(
        description="resident memory of the worker when a session last opened or closed; null "
        "before"
    )
    step_us: int = Field(description="median time per token in the layers held here; 0 = unknown")
    restarts: int = Field(description="restarts of the worker after a failure")
    pid: int | None = Field(
        description="process id of the worker; null while none runs, or until it is reported"
    )


class ModelRows(_Row):
    """Result of shards.models."""

    models: list[ModelRow] = Field(description="those of the configuration, then added ones")


class SpanRow(_Row):
    """Layers of a model, held by a node."""

    peer: str = Field(description="peer id of the node")
    this_node: bool = Field(description="whether it is this node's own")
    model: str = Field(description="name of the model, as that node calls it")
    digest: str = Field(description="SHA-256 of weights, configuration and tokenizer, hex")
    start: int = Field(description="first layer")
    end: int = Field(description="exclusive end: one past the last layer")
    layers: int = Field(description="number of layers of the whole model")
    dtype: str = Field(description="float32, bfloat16 or float16")
    max_positions: int = Field(description="positions that one session may have, prompt included")
    free_positions: int = Field(
        description="positions for which the cache has room now, over all sessions"
    )
    step_us: int = Field(
        description="median time per token through these layers, in microseconds; 0 = unknown"
    )


class SpanRows(_Row):
    """Result of shards.spans."""

    spans: list[SpanRow] = Field(description="by model, digest, first layer and peer id")
    names: Names = {}


class SessionRow(_Row):
    """A session that this node computes."""

    coordinator: str = Field(description="peer id of the node that answers the prompt")
    prev: str = Field(description="peer id of the node that sends the activations")
    model: str = Field(description="name of the model, as configured here")
    start: int = Field(description="first layer")
    end: int = Field(description="exclusive end: one past the last layer")
    positions: int = Field(description="tokens computed so far, prompt included")
    max_positions: int = Field(description="tokens for which cache is reserved")
    journal_bytes: int = Field(description="size of the sent activations kept for replay")


class SessionRows(_Row):
    """Result of shards.sessions."""

    sessions: list[SessionRow] = Field(
        description="in order of opening, whichever node coordinates the answer"
    )
    names: Names = {}
    answering: int = Field(description="answers that this node coordinates")
    overhead_us: int | None = Field(
        description="recent median time per token in this node outside the layers, in "
        "microseconds; null before the first"
    )


def _model_row(service: ShardsService, model: LocalModel) -> ModelRow:
    holder = model.holder
    loading = own_loading(model, service.node_id)
    done, total = (loading.done_bytes, loading.total_bytes) if loading else (0, 0)
    return ModelRow(
        name=model.entry.name,
        path=str(model.folder),
        source=model.entry.source or "",
        is_added=service.list.is_added(model.entry.name),
        layers=model.entry.layers,
        state=model.state,
        progress=done / total if total else None,
        done_bytes=done,
        total_bytes=total,
        problem=model.problem or (holder.problem if holder else ""),
        covered=service.backend.covering(model, service.spans()) is not None,
        digest=model.digests.digest if model.digests else "",
        dtype=holder.span.dtype if holder and holder.span else "",
        weight_bytes=holder.weight_bytes if holder else 0,
        rss_bytes=holder.rss_bytes if holder else None,
        step_us=holder.step_us if holder else 0,
        restarts=holder.restarts if holder else 0,
        pid=holder.pid if holder else None,
    )


def shards_methods(service: Callable[[], ShardsService]) -> Iterator[Method]:
    """The methods; `service` gives the running service, or raises Unavailable."""

    def models(call: CallContext, params: NoParams) -> ModelRows:
        running = service()
        return ModelRows(models=[_model_row(running, m) for m in running.models.values()])

    def spans(call: CallContext, params: NoParams) -> SpanRows:
        running = service()
        rows = [
            SpanRow(
                peer=s.peer,
                this_node=s.peer == running.node_id,
                model=s.model,
                digest=s.digest,
                start=s.start,
                end=s.end,
                layers=s.layers,
                dtype=s.dtype,
                max_positions=s.max_positions,
                free_positions=s.free_positions,
                step_us=s.step_us,
            )
            for s in sorted(running.spans(), key=lambda s: (s.model, s.digest, s.start, s.peer))
        ]
        return SpanRows(spans=rows, names=running.names(row.peer for row in rows))

    def sessions(call: CallContext, params: NoParams) -> SessionRows:
        running = service()
        rows = [
            SessionRow(
                coordinator=v.coordinator,
                prev=v.prev,
                model=v.model,
                start=v.start,
                end=v.end,
                positions=v.positions,
                max_positions=v.max_positions,
                journal_bytes=v.journal_bytes,
            )
            for v in running.stage_server.sessions()
        ]
        measured = running.stage_server.overhead_us
        return SessionRows(
            sessions=rows,
            names=running.names(peer for row in rows for peer in (row.coordinator, row.prev)),
            answering=running.backend.answering,
            overhead_us=int(statistics.median(measured)) if measured else None,
        )

    yield Method("shards.models", models, "This node's models and their states.", result=ModelRows)
    yield Method("shards.spans", spans, "Which nodes hold which layers.", result=SpanRows)
    yield Method(
        "shards.sessions",
        sessions,
        "Sessions that this node computes and answers that it coordinates.",
        result=SessionRows,
    )
