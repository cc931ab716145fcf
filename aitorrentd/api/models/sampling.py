"""How the tokens of an answer are chosen, and what becomes of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from aitorrentd.api.models.logprobs import MAX_TOP
from aitorrentd.api.models.messages import Text
from aitorrentd.errors import InvalidParams

REST_OF_CONTEXT: Final = -1
"As `max_tokens`: until the model's context is full."
_TokenId = Annotated[int, Field(ge=0, lt=2**32)]
_ID: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBERS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
    "num_ctx",
    "top_logprobs",
)
_Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


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
    max_tokens: int | None = Field(
        None,
        ge=REST_OF_CONTEXT,
        description="at most this many new tokens; -1 = the rest of the context",
    )
    context: tuple[int, ...] | None = Field(None, description="token ids to continue from")
    num_ctx: int | None = Field(None, ge=1, lt=2**31, description="context size in tokens (Ollama)")
    format: Literal["json"] | dict[str, Any] | None = Field(
        None, description="json, or a JSON Schema that the answer must match (Ollama, OpenAI)"
    )
    think: bool | Literal["low", "medium", "high"] | None = Field(
        None, description="whether, or how long, the model thinks first (Ollama, OpenAI)"
    )
    continues: Literal[True] | None = Field(
        None,
        description="go on with the assistant's message that ends the conversation (Ollama,"
        " shards)",
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

    @field_validator("max_tokens")
    @classmethod
    def _not_empty(cls, value: int | None) -> int | None:
        if value == 0:
            raise PydanticKnownError("greater_than_equal", {"ge": 1})
        return value

    @field_validator(*_NUMBERS, mode="before")
    @classmethod
    def _no_flag(cls, value: Any) -> Any:
        """Python takes true for 1, and JSON does not."""
        if isinstance(value, bool):
            raise PydanticKnownError("float_type")
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _plain_ids(cls, value: Any) -> Any:
        """Keys are ids as JSON writes numbers, each once; Python reads ` 1`, `+1` and `1_0` too."""
        for key, bias in value.items() if isinstance(value, dict) else ():
            if isinstance(key, str) and not _ID.fullmatch(key):
                raise ValueError(f"{key[:40]!r} is not the id of a token")
            if isinstance(bias, bool):
                raise ValueError(f"that of the token {key} must be a number")
        return value

    @field_validator("logprobs", "continues", mode="before")
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
