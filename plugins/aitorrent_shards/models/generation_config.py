"""A model's generation_config.json: each setting is applied, or refused by name.

Meanings and neutral values follow transformers' GenerationConfig. Settings that affect only speed
or the extra output of `generate` are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrentd.api import InvalidParams

DEFAULT_TOP_K: Final = 50
"The top_k that transformers uses when it is not set."
_ONE_TOKEN: Final = 1e-9
"A top_p that keeps only the likeliest token, as 0 does."
T = TypeVar("T")

_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "guidance_scale": (1,),
    "sequence_bias": ({}, []),
    "constraints": ([],),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "watermarking_config": (),
    "token_healing": (False,),
    "max_time": (),
}
"Unsupported settings that change the answer, with their neutral values."


@dataclass(frozen=True, slots=True)
class LogitRules:
    """Logit edits before a token is chosen, greedily or by sampling."""

    repetition_penalty: float = 1.0
    "Divides positive logits of earlier tokens, including the prompt's; multiplies negative ones."
    repeat_last_n: int | None = None
    "How many of the latest tokens the repetition penalty covers; None = all."
    presence_penalty: float = 0.0
    "Subtracted from the logits of tokens that the answer already has."
    frequency_penalty: float = 0.0
    "The same, for each time that the answer has them."
    bias: tuple[tuple[int, float], ...] = ()
    "What is added to the logits of tokens, before anything else."
    no_repeat_ngram_size: int = 0
    "Sequences of this many tokens occur at most once; 0 = no limit."
    suppressed: frozenset[int] = frozenset()
    begin_suppressed: frozenset[int] = frozenset()
    "Never allowed as the first token of an answer."
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_length: int = 0
    "Minimum length in positions, including the prompt."
    min_new_tokens: int = 0

    @property
    def is_neutral(self) -> bool:
        """Whether no logit is ever changed."""
        return self == LogitRules()


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """A model's own sampling settings."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    rules: LogitRules = LogitRules()
    max_new_tokens: int | None = None
    max_length: int | None = None
    "Positions, prompt included."
    stop_texts: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()


class _Stated(BaseModel):
    """The supported settings as the file gives them; null means not set."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    temperature: float | None = Field(None, ge=0, le=100)
    top_k: int | None = Field(None, ge=-1)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=1e-3, le=1e3)
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    suppress_tokens: int | list[int] | None = None
    begin_suppress_tokens: int | list[int] | None = None
    bad_words_ids: list[Annotated[list[int], Field(min_length=1)]] | None = None
    min_length: int | None = Field(None, ge=0)
    min_new_tokens: int | None = Field(None, ge=0)
    max_new_tokens: int | None = Field(None, ge=0)
    max_length: int | None = Field(None, ge=0)
    stop_strings: str | list[str] | None = None
    eos_token_id: int | list[int] | None = None


def _several(value: T | list[T] | None) -> list[T]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def read_generation(settings: Mapping[str, Any], where: str) -> GenerationSettings:
    """The settings in a generation_config.json; `where` names it in errors.

    Raises:
        InvalidParams: an unsupported setting, or a value out of range.
    """
    for name, neutral in _REFUSED.items():
        value = settings.get(name)
        if value is not None and value not in neutral:
            raise InvalidParams(
                f"{where}: {name} is {str(value)[:80]}; this setting is not supported, remove it"
            )
    try:
        stated = _Stated.model_validate(settings)
    except ValidationError as e:
        first = e.errors()[0]
        name = str(first["loc"][0])
        raise InvalidParams(
            f"{where}: {name} is {str(settings.get(name))[:80]}; {first['msg']}"
        ) from None
    samples = settings.get("do_sample") is True
    end_ids = frozenset(_several(stated.eos_token_id))
    return GenerationSettings(
        temperature=_or(stated.temperature, 1.0) if samples else 0.0,
        # -1 means no limit to vLLM, for which many of these files are written.
        top_k=max(0, _or(stated.top_k, DEFAULT_TOP_K if samples else 0)),
        top_p=_or(stated.top_p, 1.0) or _ONE_TOKEN,
        min_p=_or(stated.min_p, 0.0),
        rules=LogitRules(
            repetition_penalty=_or(stated.repetition_penalty, 1.0),
            no_repeat_ngram_size=_or(stated.no_repeat_ngram_size, 0),
            suppressed=frozenset(_several(stated.suppress_tokens)),
            begin_suppressed=frozenset(_several(stated.begin_suppress_tokens)),
            bad_words=tuple(
                tuple(word)
                for word in stated.bad_words_ids or ()
                if not (len(word) == 1 and word[0] in end_ids)
            ),
            min_length=_or(stated.min_length, 0),
            min_new_tokens=_or(stated.min_new_tokens, 0),
        ),
        max_new_tokens=stated.max_new_tokens or None,
        max_length=stated.max_length or None,
        stop_texts=tuple(_several(stated.stop_strings)),
        end_ids=end_ids,
    )
