"""One request type and one chunk type for every backend.

Backends (a local Ollama, an OpenAI-compatible server, a pipeline of shards, a peer) take a
`GenerateRequest` and yield `Chunk`s. The last chunk has `done` set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Protocol, Self, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from aitorrentd.api.models.images import Image, Picture, joined_parts
from aitorrentd.api.models.logprobs import MAX_TOP, TokenLogprob
from aitorrentd.api.models.tools import (
    MAX_CALLS,
    MAX_TOOLS,
    Tool,
    ToolCall,
    ToolChoice,
    check_tools,
)
from aitorrentd.api.services import Registry, ServiceKey
from aitorrentd.errors import InvalidParams

DoneReason = Literal["stop", "length", "tool_calls"]
"Why an answer ended: by itself, at the token limit, or with calls of tools."


def _is_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        half = f"\\u{ord(text[e.start]):04x}"
        raise ValueError(f"an unpaired surrogate ({half}), which UTF-8 cannot encode") from None
    return text


Text = Annotated[str, AfterValidator(_is_text)]
"Text that can be encoded as UTF-8."


_TokenId = Annotated[int, Field(ge=0, lt=2**32)]
_Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Message(BaseModel):
    """One turn of a conversation.

    `content` may be a list of parts, as in the OpenAI API: texts are joined, images go to `images`.
    The role `developer` is OpenAI's newer name for `system`. A null field counts as absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant", "tool"] = Field(
        description="author of the turn; developer is accepted for system"
    )
    content: Text = Field(
        description="text, or a list of text and image parts as in the OpenAI API"
    )
    images: tuple[Image, ...] = Field(
        (), max_length=32, description="as base64, data URLs, or URLs that the server fetches"
    )
    tool_calls: tuple[ToolCall, ...] = Field(
        (), max_length=MAX_CALLS, description="the model's calls of tools, in an assistant's turn"
    )
    tool_call_id: Text = Field(
        "", max_length=256, description="in a tool's turn: the id of the call that it answers"
    )
    tool_name: Text = Field(
        "", max_length=128, description="in a tool's turn: which tool it is (Ollama)"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_dialects(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = {k: v for k, v in value.items() if v is not None}
        if fields.get("tool_calls"):
            fields.setdefault("content", "")
        if fields.get("role") == "developer":
            fields["role"] = "system"
        if isinstance(fields.get("content"), list | tuple):
            text, images = joined_parts(fields["content"])
            fields["content"] = text
            if images:
                fields["images"] = (*fields.get("images", ()), *images)
        return fields

    def pictures(self) -> tuple[Picture, ...]:
        """The images, in every form that a server may need."""
        return tuple(Picture.of(text) for text in self.images)


class SamplingParams(BaseModel):
    """Sampling and output options; None leaves a choice to the backend or the model. Unknown
    parameters are rejected by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="0 = always the most likely token"
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="sample from the most likely tokens up to this total probability",
    )
    top_k: int | None = Field(
        None, ge=0, description="sample from this many most likely tokens; 0 = all"
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="sample only tokens at least this fraction as likely as the most likely",
    )
    repeat_penalty: float | None = Field(
        None,
        ge=0.01,
        le=100,
        allow_inf_nan=False,
        description="penalise tokens that already occurred, also in the prompt; 1 = off",
    )
    repeat_last_n: int | None = Field(
        None,
        ge=-1,
        lt=2**31,
        description="how many of the latest tokens repeat_penalty covers; -1 = all (Ollama)",
    )
    presence_penalty: float | None = Field(
        None,
        ge=-2,
        le=2,
        allow_inf_nan=False,
        description="penalise tokens that already occur in the answer; 0 = off (Ollama, OpenAI)",
    )
    frequency_penalty: float | None = Field(
        None,
        ge=-2,
        le=2,
        allow_inf_nan=False,
        description="penalise tokens by their count in the answer; 0 = off (Ollama, OpenAI)",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="the same seed gives the same answer"
    )
    stop: tuple[Text, ...] = Field((), max_length=16, description="stop before any of these texts")
    max_tokens: int | None = Field(None, ge=1, description="at most this many new tokens")
    context: tuple[int, ...] | None = Field(None, description="token ids to continue from")
    num_ctx: int | None = Field(None, ge=1, lt=2**31, description="context size in tokens (Ollama)")
    format: Literal["json"] | dict[str, Any] | None = Field(
        None, description="json, or a JSON Schema that the answer must match (Ollama, OpenAI)"
    )
    think: bool | Literal["low", "medium", "high"] | None = Field(
        None, description="whether, or how long, the model thinks first (Ollama, OpenAI)"
    )
    logit_bias: dict[_TokenId, _Bias] | None = Field(
        None,
        max_length=1024,
        description="what to add to the logits of tokens, by id; -100 forbids a token"
        " (shards, OpenAI)",
    )
    logprobs: Literal[True] | None = Field(
        None,
        description="send the log-probability of every token, as the model gave it before any"
        " other parameter",
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP,
        description="with logprobs: also those of this many likeliest tokens",
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("logprobs", mode="before")
    @classmethod
    def _off_is_unset(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("logit_bias")
    @classmethod
    def _no_bias_is_unset(cls, value: dict[int, float] | None) -> dict[int, float] | None:
        return value or None

    @model_validator(mode="after")
    def _top_of_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError('"top_logprobs" requires "logprobs"')
        return self


def refuse_params(params: SamplingParams, who: str, **reasons: str) -> None:
    """Reject those of the named parameters that are set. `reasons` says for each why `who` cannot
    apply it, and may be empty. Backends call it for every parameter that they would drop.

    Raises:
        InvalidParams: it names each of them.
    """
    set_ones = [name for name in reasons if getattr(params, name) not in (None, ())]
    if set_ones:
        texts = [f"{name}: {reasons[name]}" if reasons[name] else name for name in set_ones]
        raise InvalidParams(f"{who} cannot apply {', '.join(texts)}", params=set_ones)


def refuse_images(request: GenerateRequest, who: str) -> None:
    """Reject a conversation with images; called by backends that would drop them.

    Raises:
        InvalidParams: the conversation has images.
    """
    if any(message.images for message in request.messages or ()):
        raise InvalidParams(
            f"{who} does not accept images; leave out messages[].images", params=["images"]
        )


def refuse_tools(request: GenerateRequest, who: str) -> None:
    """Reject tools and earlier calls of tools; called by backends that would drop them.

    Raises:
        InvalidParams: the request has some.
    """
    fields = [
        *(["tools"] if request.tools and request.tool_choice != "none" else []),
        *(["messages[].tool_calls"] if any(m.tool_calls for m in request.messages or ()) else []),
    ]
    if fields:
        raise InvalidParams(f"{who} cannot apply {', '.join(fields)}", params=fields)


class GenerateRequest(BaseModel):
    """A prompt (or a conversation) for a model. An empty model means the node's default.

    A prompt counts as one user turn: backends apply the model's chat template, if any, unless `raw`
    is set. (Ollama's /api/generate has the same rule.)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Text = Field("", max_length=256)
    prompt: Text | None = None
    messages: tuple[Message, ...] | None = Field(None, max_length=4096)
    params: SamplingParams = SamplingParams()
    raw: bool = Field(False, description="send the prompt verbatim, without the chat template")
    tools: tuple[Tool, ...] = Field(
        (), max_length=MAX_TOOLS, description="functions that the model may call"
    )
    tool_choice: ToolChoice | None = Field(
        None, description="auto (the default), none, required, or the name of one tool"
    )
    parallel_tool_calls: bool | None = Field(
        None, description="whether one answer may call several tools"
    )

    @model_validator(mode="after")
    def _one_of(self) -> GenerateRequest:
        if (self.prompt is None) == (not self.messages):
            raise ValueError('give either "prompt" or a non-empty "messages"')
        if self.raw and self.messages:
            raise ValueError('"raw" requires "prompt", not "messages"')
        check_tools(self.tools, self.tool_choice, has_messages=bool(self.messages))
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
    """A piece of an answer. The last one carries counts, context and stages."""

    text: str
    done: bool = False
    reason: DoneReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    context: tuple[int, ...] | None = None
    stages: tuple[StageView, ...] = ()
    token_ids: tuple[int, ...] = ()
    "Token ids behind `text`, if the backend knows them; may be empty for text held back before."
    notice: str = ""
    """Progress for the user, such as a lost stage or a model being loaded (then `extra` has
    done_bytes and total_bytes); comes without text."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Backend-specific figures of the last chunk, such as Ollama's durations in ns, and
    reasoning_tokens where the server counts them."""
    thinking: str = ""
    "Part of the model's reasoning before it answers; not part of the answer."
    logprobs: tuple[TokenLogprob, ...] = ()
    "One for each token of the answer, in order, if requested; not for the token that ends it."
    tool_calls: tuple[ToolCall, ...] = ()
    "The model's calls of tools, each whole; only if the request offers tools."
    warning: str = ""
    """What the user must know to judge the answer, such as that the server truncated the prompt; in
    the last chunk."""


@dataclass(frozen=True, slots=True)
class HeldLayers:
    """Layers of a model that a node has in memory."""

    peer: str
    start: int
    end: int
    "One past the last layer."
    rss_bytes: int | None = None
    "Resident memory of the process that holds them; known for this node only."


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that a backend can answer with now."""

    name: str
    backend: str
    size_bytes: int | None = None
    family: str = ""
    context_length: int | None = None
    detail: str = ""
    "For display: quantisation, or which peers hold which layers."
    layers: tuple[HeldLayers, ...] = ()
    "Which node holds which layers, for a model spread over nodes."


@dataclass(frozen=True, slots=True)
class PendingModel:
    """A model that a backend knows but cannot answer with yet."""

    name: str
    backend: str
    state: Literal["loading", "incomplete", "failed"]
    "`loading` becomes ready without user action; the others do not."
    detail: str
    "For display: what is missing, and why."
    done_bytes: int = 0
    "Bytes read so far, here and at peers."
    total_bytes: int = 0
    "Bytes to read; 0 while unknown."
    layers: tuple[HeldLayers, ...] = ()
    "Which nodes already hold which layers."
    missing: tuple[tuple[int, int], ...] = ()
    "Ranges of layers that no node holds; each end is exclusive."
    shortage: str = ""
    "Which layers nobody holds or loads, and who last held them; the part that peers may see."


class Backend(Protocol):
    """A way to answer prompts."""

    @property
    def name(self) -> str:
        """Short, unique on this node: `ollama`, `shards`."""

    async def models(self) -> Sequence[ModelView]:
        """Models ready to answer; raises Unavailable, with a remedy, when the backend is absent."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """The answer. Closing the iterator stops the work behind it.

        Raises (while iterating):
            NotFound: no such model. Busy: too many requests. InvalidParams: prompt too long.
            Unavailable: the backend or a needed stage is gone and the answer cannot continue.
        """


@runtime_checkable
class KnowsPending(Protocol):
    """An optional addition to `Backend`: models that it cannot answer with yet."""

    def pending(self) -> Sequence[PendingModel]:
        """These models, from what is already known; cheap to call."""


BACKENDS: Final = ServiceKey[Registry[Backend]]("inference.backends.v1")
"Backends of this node, by name."


class Inference(Protocol):
    """The router: chooses a backend or peer. Provided by the inference plugin."""

    async def models(self) -> Sequence[ModelView]:
        """Models of all local backends and of connected peers (backend `peer:<id>`)."""

    def generate(
        self, request: GenerateRequest, *, backend: str | None = None
    ) -> AsyncIterator[Chunk]:
        """The answer from the best or the named backend or peer; errors as in Backend.generate."""


INFERENCE: Final = ServiceKey[Inference]("inference.v1")
"The router, which answers prompts through backends and peers."
