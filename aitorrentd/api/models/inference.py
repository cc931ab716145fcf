"""One request type and one chunk type for every backend.

Backends (a local Ollama, an OpenAI-compatible server, a pipeline of shards, a peer) take a
`GenerateRequest` and yield `Chunk`s. The last chunk has `done` set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aitorrentd.api.models.call_parts import CallPart
from aitorrentd.api.models.embeddings import Embeddings, EmbedRequest
from aitorrentd.api.models.logprobs import TokenLogprob
from aitorrentd.api.models.messages import Message, Text
from aitorrentd.api.models.sampling import SamplingParams
from aitorrentd.api.models.tools import MAX_TOOLS, Tool, ToolCall, ToolChoice, check_tools
from aitorrentd.api.models.views import ModelView, PendingModel
from aitorrentd.api.services import Registry, ServiceKey
from aitorrentd.api.values import light
from aitorrentd.errors import InvalidParams

DoneReason = Literal["stop", "length", "tool_calls"]
"Why an answer ended: by itself, at the token limit, or with calls of tools."


def refuse_images(request: GenerateRequest, who: str) -> None:
    """Reject a conversation with images that `who` would drop: the name of a model or a server.

    Raises:
        InvalidParams: the conversation has images.
    """
    if any(message.images for message in request.messages or ()):
        raise InvalidParams(f"{who} does not support images; leave them out", params=["images"])


def check_begun(messages: Sequence[Message], params: SamplingParams) -> None:
    """That there is a turn to go on with, where an answer continues one.

    Raises:
        ValueError: the conversation does not end with text of the assistant.
    """
    if params.continues and not has_begun(messages):
        raise ValueError('"continues" requires "messages" that end with text of the assistant')


def has_begun(messages: Sequence[Message]) -> bool:
    """Whether a conversation ends with a turn that the assistant may have begun."""
    last = messages[-1] if messages else None
    is_text = last is not None and bool(last.content.strip()) and not last.tool_calls
    return is_text and last is not None and last.role == "assistant"


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
        check_begun(self.messages or (), self.params)
        check_tools(self.tools, self.tool_choice, has_messages=bool(self.messages))
        return self


@dataclass(frozen=True, slots=True)
class StageView:
    """Which node computed which layers of an answer."""

    peer: str
    start: int
    end: int
    "One past the last layer."


@light
class Chunk:
    """A piece of an answer. The last one carries counts, context and stages; the first one may
    carry `prompt_tokens`, too."""

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
    reasoning_tokens and cached_tokens (of the prompt) where the server counts them. The router adds
    queue_s, first_token_s and rest_s: the wait before the answer, and the times to its first token
    and from there to its last."""
    thinking: str = ""
    "Part of the model's reasoning before it answers; not part of the answer."
    logprobs: tuple[TokenLogprob, ...] = ()
    "One for each token of the answer, in order, if requested; not for the token that ends it."
    tool_calls: tuple[ToolCall, ...] = ()
    "The model's calls of tools, each whole, in any chunk; only if the request offers tools."
    call_parts: tuple[CallPart, ...] = ()
    """Parts of the call that the model is writing, which comes whole later; in one chunk they are
    after its text and whole calls. See `call_parts`."""
    warning: str = ""
    """What the user must know to judge the answer, such as that the server truncated the prompt; in
    the last chunk."""


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


@runtime_checkable
class CountsTokens(Protocol):
    """An optional addition to `Backend`: how long a prompt is, without an answer."""

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Tokens of the prompt as `generate` computes them: chat template, tools and context
        included, images not.

        Raises:
            NotFound: no such model. InvalidParams: `generate` would refuse the request, or only the
            server knows. Unavailable: the backend is gone.
        """


BACKENDS: Final = ServiceKey[Registry[Backend]]("inference.backends.v1")
"Backends of this node, by name."


class Inference(Protocol):
    """The router: chooses a backend or peer. Provided by the inference plugin."""

    async def default_model(self) -> str:
        """The model that an empty name means; empty while none can answer."""

    async def models(self) -> Sequence[ModelView]:
        """Models of all local backends and of connected peers (backend `peer:<id>`)."""

    def generate(
        self, request: GenerateRequest, *, backend: str | None = None
    ) -> AsyncIterator[Chunk]:
        """The answer from the best or the named backend or peer; errors as in Backend.generate."""

    async def count_tokens(self, request: GenerateRequest, *, backend: str | None = None) -> int:
        """Tokens of the prompt, as the backend that would answer counts them.

        Raises:
            InvalidParams: that backend cannot count, or would refuse the request.
            NotFound, Unavailable: as for an answer.
        """

    async def embedding_models(self) -> Sequence[ModelView]:
        """Models made to turn texts into vectors, of local backends and of peers."""

    async def embed(self, request: EmbedRequest, *, backend: str | None = None) -> Embeddings:
        """The texts as vectors, by the best or the named backend or peer; errors as in
        Embeds.embed."""


INFERENCE: Final = ServiceKey[Inference]("inference.v1")
"The router, which answers prompts through backends and peers."
