"""Parameters and results of the control methods `inference.*`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aitorrentd.api import EmbedRequest, GenerateRequest, Message, SamplingParams
from aitorrentd.api.models.inference import check_begun
from aitorrentd.api.models.tools import MAX_TOOLS, Tool, ToolChoice, check_tools


class LayersRow(BaseModel):
    """Layers of a model that a node has in memory."""

    peer: str = Field(description="peer id of the node")
    start: int = Field(description="first layer")
    end: int = Field(description="exclusive end: one past the last layer")
    rss_bytes: int | None = Field(
        None, description="resident memory of the process that holds them; only known for this node"
    )
    vram_bytes: int | None = Field(
        None, description="their weights in a graphics card's memory; only known for this node"
    )


class ModelRow(BaseModel):
    """A model that can answer now."""

    name: str = Field(description="as the backend calls it")
    backend: str = Field(
        description="ollama, openai, shards or the like; `peer:<peer id>` for a peer"
    )
    size_bytes: int | None = Field(None, description="size of the weights; null if unknown")
    family: str = Field("", description="architecture, such as llama; empty if unknown")
    context_length: int | None = Field(
        None, description="longest context in tokens; null if unknown"
    )
    detail: str = Field(
        "", description="for display: the quantisation, the owner, or who holds which layers"
    )
    layers: list[LayersRow] = Field(
        [], description="which nodes hold which layers of a split model; empty for others"
    )
    is_resting: bool = Field(
        False,
        description="whether layers of this node left its memory, until a request needs them",
    )
    leaves_s: float | None = Field(
        None,
        description="seconds until layers of this node leave its memory, unless somebody uses"
        " them; null = they stay",
    )


class PendingRow(BaseModel):
    """A model that cannot answer now."""

    name: str = Field(description="as the backend calls it")
    backend: str = Field(description="as in models; peers if only they are loading it")
    state: Literal["loading", "incomplete", "failed"] = Field(
        description="loading needs no action; incomplete needs nodes that offer the missing "
        "layers; failed is explained in detail"
    )
    detail: str = Field(description="what is missing, and why")
    done_bytes: int = Field(description="bytes read so far, here and on peers")
    total_bytes: int = Field(description="bytes to read; 0 while unknown")
    layers: list[LayersRow] = Field(description="which nodes already hold which layers")
    missing: list[tuple[int, int]] = Field(
        description="start and exclusive end of each range of layers that no node holds"
    )
    shortage: str = Field(
        "", description="which layers nobody holds or loads, and who last held them"
    )


Names = Annotated[
    dict[str, str],
    Field(description="self-chosen names by peer id; only ids are proven"),
]


class Models(BaseModel):
    """Models that can answer now, here and on peers, and those that cannot yet."""

    models: list[ModelRow] = Field(description="those of local backends first, then those of peers")
    pending: list[PendingRow] = Field(
        [], description="models known to this node that cannot answer yet"
    )
    names: Names = {}


class BackendRow(BaseModel):
    """A backend on this machine."""

    name: str = Field(description="such as ollama, openai or shards")
    ok: bool = Field(description="whether it listed its models")
    detail: str = Field(description="number of models, or why it cannot be used")
    features: list[str] = Field(
        [], description="what requests to it may use beyond text and sampling parameters"
    )


class Backends(BaseModel):
    """The backends on this machine."""

    backends: list[BackendRow] = Field(
        description="in order of registration; empty if none is configured"
    )


class CountParams(BaseModel):
    """A prompt or a conversation, and how to answer it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("", max_length=256, description="empty = the node's default")
    prompt: str | None = Field(None, description="the prompt; alternatively, pass messages")
    raw: bool = Field(False, description="send the prompt verbatim, without the chat template")
    messages: tuple[Message, ...] | None = Field(
        None, max_length=4096, description="a conversation, oldest turn first, in place of a prompt"
    )
    tools: tuple[Tool, ...] = Field(
        (), max_length=MAX_TOOLS, description="functions that the model may call; need messages"
    )
    tool_choice: ToolChoice | None = Field(
        None, description="auto (the default), none, required, or the name of one tool"
    )
    parallel_tool_calls: bool | None = Field(
        None, description="whether one answer may call several tools"
    )
    params: SamplingParams = Field(
        SamplingParams(),
        description="sampling and output options; those left out are up to the backend or model",
    )
    backend: str | None = Field(
        None, max_length=256, description="use only this backend, or `peer:<peer id>`"
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError('give either "prompt" or a non-empty "messages"')
        if self.raw and self.messages:
            raise ValueError('"raw" requires "prompt", not "messages"')
        check_begun(self.messages or (), self.params)
        check_tools(self.tools, self.tool_choice, has_messages=bool(self.messages))
        return self

    def request(self) -> GenerateRequest:
        """The request for a backend."""
        return GenerateRequest(
            model=self.model,
            prompt=self.prompt,
            messages=self.messages,
            raw=self.raw,
            tools=self.tools,
            tool_choice=self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls,
            params=self.params,
        )


class GenerateParams(CountParams):
    """A prompt or a conversation, and who answers it."""

    discover: bool = Field(
        False,
        description="only peers found through the directory: neither this machine's backends nor "
        "the configured plugins.inference.nodes",
    )
    parallel: int = Field(
        1, ge=1, le=16, description="ask this many backends at once; the first to respond answers"
    )
    thinking: bool = Field(False, description="also stream what the model thinks before it answers")
    wait_s: float = Field(
        0,
        ge=0,
        le=86_400,
        description="how long to wait for a model that is loading, here or on a peer; the call "
        "reports progress meanwhile",
    )
    wait_incomplete: bool = Field(
        False, description="wait also for a model that lacks layers, until other nodes offer them"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.discover and self.backend is not None:
            raise ValueError('"discover" and "backend" are mutually exclusive')
        return self


class Count(BaseModel):
    """How long a prompt is."""

    tokens: int = Field(description="of the prompt, chat template and tools included")


class EmbedParams(EmbedRequest):
    """Texts, and who turns them into vectors."""

    model: str = Field(
        "", max_length=256, description="empty = the first embedding model that is found"
    )
    backend: str | None = Field(
        None, max_length=256, description="use only this backend, or `peer:<peer id>`"
    )


class Vector(BaseModel):
    """One text as a vector."""

    vector: list[float] = Field(description="of the next text, in order")


class EmbeddingModels(BaseModel):
    """Models made to turn texts into vectors."""

    models: list[ModelRow] = Field(description="those of local backends first, then those of peers")
    names: Names = {}


class Piece(BaseModel):
    """A piece of the answer, in order."""

    text: str = Field(description="what follows the previous piece; may be empty")
    thinking: str = Field("", description="what the model thinks before it answers, if requested")
    token_ids: list[int] = Field([], description="token ids of the text, where known")
    tool_calls: list[dict[str, Any]] = Field(
        [], description="the model's calls of tools, as in the OpenAI API"
    )
    logprobs: list[dict[str, Any]] = Field(
        [],
        description="if requested, for each token of the answer: token, logprob, bytes,"
        " top_logprobs and, where known, id, as in the OpenAI API",
    )
