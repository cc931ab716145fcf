"""One request type and one chunk type for every way to answer a prompt.

Backends (a local Ollama, an OpenAI-compatible server, a pipeline of shards, a peer) take a
`GenerateRequest` and yield `Chunk`s. The last chunk has `done` set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aitorrentd.api.services import Registry, ServiceKey

DoneReason = Literal["stop", "length"]


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class SamplingParams(BaseModel):
    """How tokens are chosen; None leaves it to the backend or the model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    temperature: float | None = Field(
        None, ge=0, le=100, description="0 = always the likeliest token"
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="keep the likeliest tokens up to this mass"
    )
    top_k: int | None = Field(None, ge=0, description="keep this many likeliest tokens; 0 = all")
    seed: int | None = Field(None, ge=0, lt=2**63, description="same seed, same answer")
    stop: tuple[str, ...] = Field((), max_length=16, description="end before any of these texts")
    max_tokens: int | None = Field(None, ge=1, description="at most this many new tokens")
    context: tuple[int, ...] | None = Field(None, description="token ids that continue a session")


class GenerateRequest(BaseModel):
    """A prompt (or a conversation) for a model. An empty model means the node's default.

    A prompt counts as one turn of a user: backends put it into the model's chat template if it has
    one, unless `raw` is set. (Ollama's /api/generate has the same rule.)
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = Field("", max_length=256)
    prompt: str | None = None
    messages: tuple[Message, ...] | None = Field(None, max_length=4096)
    params: SamplingParams = SamplingParams()
    raw: bool = Field(False, description="send the prompt as it is, without the chat template")

    @model_validator(mode="after")
    def _one_of(self) -> GenerateRequest:
        if (self.prompt is None) == (not self.messages):
            raise ValueError('give either "prompt" or a non-empty "messages"')
        return self


@dataclass(frozen=True, slots=True)
class StageView:
    """Which node computed which layers of an answer."""

    peer: str
    start: int
    end: int
    "One past the last layer."


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. Counts, context and stages come with the last one."""

    text: str
    done: bool = False
    reason: DoneReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    context: tuple[int, ...] | None = None
    stages: tuple[StageView, ...] = ()
    token_ids: tuple[int, ...] = ()
    "Ids behind `text`, where the backend knows them; may be empty for text held back before."
    notice: str = ""
    """What a person who waits may want to know, such as that a stage was lost, or that a model is
    being loaded (then `extra` has done_bytes and total_bytes); comes without text."""
    extra: dict[str, Any] = field(default_factory=dict)
    "Backend-specific figures of the last chunk, such as Ollama's durations in ns."


@dataclass(frozen=True, slots=True)
class HeldLayers:
    """Layers of a model that a node has in memory."""

    peer: str
    start: int
    end: int
    "One past the last layer."
    rss_bytes: int | None = None
    "Resident memory of the process that holds them; known of this node's own only."


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that a backend can answer with, now."""

    name: str
    backend: str
    size_bytes: int | None = None
    family: str = ""
    context_length: int | None = None
    detail: str = ""
    "For people: quantisation, or which peers hold which layers."
    layers: tuple[HeldLayers, ...] = ()
    "Who holds what, of a model that is spread over nodes."


@dataclass(frozen=True, slots=True)
class PendingModel:
    """A model that a backend knows and cannot answer with now."""

    name: str
    backend: str
    state: Literal["loading", "incomplete", "failed"]
    "`loading` gets ready without anybody's doing; the others do not."
    detail: str
    "For people: what is missing, and why."
    done_bytes: int = 0
    "What was read of it so far, here and at peers."
    total_bytes: int = 0
    "What is to be read; 0 while that is not known."
    layers: tuple[HeldLayers, ...] = ()
    "Who holds what already."
    missing: tuple[tuple[int, int], ...] = ()
    "Ranges of layers that nobody holds; each ends before its second number."


class Backend(Protocol):
    """A way to answer prompts."""

    @property
    def name(self) -> str:
        """Short, unique on this node: `ollama`, `shards`."""

    async def models(self) -> Sequence[ModelView]:
        """Models that can be answered now; Unavailable, with a remedy, when the backend is not
        there."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """The answer. Closing the iterator stops the work behind it.

        Raises (while iterating):
            NotFound: no such model. Busy: too many requests. InvalidParams: prompt too long.
            Unavailable: the backend or a needed stage is gone and the answer cannot go on.
        """


@runtime_checkable
class KnowsPending(Protocol):
    """What a backend may have beside `Backend`: models that it cannot answer with yet."""

    def pending(self) -> Sequence[PendingModel]:
        """These models, by what is known already; a look that costs nothing."""


BACKENDS: Final = ServiceKey[Registry[Backend]]("inference.backends.v1")


class Inference(Protocol):
    """The router: picks who answers. Provided by the inference plugin."""

    async def models(self) -> Sequence[ModelView]:
        """Models of all local backends and of connected peers (backend `peer:<id>`)."""

    def generate(
        self, request: GenerateRequest, *, backend: str | None = None
    ) -> AsyncIterator[Chunk]:
        """The answer by the best backend or peer, or by the named one; errors as
        Backend.generate."""


INFERENCE: Final = ServiceKey[Inference]("inference.v1")
