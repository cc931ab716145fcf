"""What a model's generation_config.json asks for: each setting is applied, or refused by its name.

Meanings and neutral values are those of transformers' GenerationConfig. Settings that change only
how fast an answer is made, or what else `generate` returns, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrentd.api import InvalidParams

DEFAULT_TOP_K: Final = 50
"What transformers samples from where top_k is not set."
_MAX_IDS: Final = 1 << 16

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
"Settings that change the answer and are not applied, with the values that change nothing."


@dataclass(frozen=True, slots=True)
class LogitRules:
    """How logits are changed before a token is chosen, greedy or sampled."""

    repetition_penalty: float = 1.0
    "Divides positive logits of tokens that occurred, prompt included; multiplies negative ones."
    no_repeat_ngram_size: int = 0
    "Sequences of so many tokens occur once at most; 0 = no rule."
    suppressed: frozenset[int] = frozenset()
    begin_suppressed: frozenset[int] = frozenset()
    "Never the first token of an answer."
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_length: int = 0
    "Positions, prompt included, before which no answer ends."
    min_new_tokens: int = 0

    @property
    def is_neutral(self) -> bool:
        """Whether no logit is ever changed."""
        return self == LogitRules()


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """A model's own way to be sampled."""

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


class _Reader:
    """Takes checked values out of the settings; None counts as not set, as in transformers."""

    def __init__(self, settings: Mapping[str, Any], where: str) -> None:
        self._settings, self._where = settings, where

    def refuse(self, key: str, expected: str) -> InvalidParams:
        value = str(self._settings.get(key))[:80]
        return InvalidParams(f"{self._where}: {key} is {value}; {expected}")

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self._settings.get(key)
        if value is None:
            return default
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or math.isnan(value):
            raise self.refuse(key, f"it must be a number from {low:g} to {high:g}")
        return float(value)

    def count(self, key: str, default: int = 0) -> int:
        value = self._settings.get(key)
        if value is None:
            return default
        if type(value) is not int or value < 0:
            raise self.refuse(key, "it must be a whole number, 0 or more")
        return value

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids: one, several, or none."""
        value = self._settings.get(key)
        values = [] if value is None else value if isinstance(value, list) else [value]
        if len(values) > _MAX_IDS or not all(type(i) is int for i in values):
            raise self.refuse(key, "it must be token ids")
        return tuple(values)

    def bad_words(self, key: str) -> tuple[tuple[int, ...], ...]:
        value = self._settings.get(key)
        if value is None:
            return ()
        if not (
            isinstance(value, list)
            and len(value) <= _MAX_IDS
            and all(isinstance(w, list) and w and all(type(i) is int for i in w) for w in value)
        ):
            raise self.refuse(key, "it must be a list of lists of token ids")
        return tuple(tuple(word) for word in value)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._settings.get(key)
        values = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(t, str) for t in values):
            raise self.refuse(key, "it must be a text or a list of texts")
        return tuple(values)

    def refuse_others(self) -> None:
        for key, neutral in _REFUSED.items():
            value = self._settings.get(key)
            if value is not None and value not in neutral:
                raise self.refuse(key, "this setting is not supported; remove it from the file")


def read_generation(settings: Mapping[str, Any], where: str) -> GenerationSettings:
    """The settings in a generation_config.json; `where` names it in errors.

    Raises:
        InvalidParams: a setting that is not supported, or a value out of range.
    """
    read = _Reader(settings, where)
    read.refuse_others()
    samples = settings.get("do_sample") is True
    end_ids = frozenset(read.ids("eos_token_id"))
    top_k = read.count("top_k", DEFAULT_TOP_K if samples else 0)
    return GenerationSettings(
        temperature=read.number("temperature", 1.0, 0.0, 100.0) if samples else 0.0,
        top_k=top_k,
        top_p=read.number("top_p", 1.0, 0.0, 1.0) or 1e-9,
        min_p=read.number("min_p", 0.0, 0.0, 1.0),
        rules=LogitRules(
            repetition_penalty=read.number("repetition_penalty", 1.0, 1e-3, 1e3),
            no_repeat_ngram_size=read.count("no_repeat_ngram_size"),
            suppressed=frozenset(read.ids("suppress_tokens")),
            begin_suppressed=frozenset(read.ids("begin_suppress_tokens")),
            bad_words=tuple(
                word
                for word in read.bad_words("bad_words_ids")
                if not (len(word) == 1 and word[0] in end_ids)
            ),
            min_length=read.count("min_length"),
            min_new_tokens=read.count("min_new_tokens"),
        ),
        max_new_tokens=read.count("max_new_tokens") or None,
        max_length=read.count("max_length") or None,
        stop_texts=read.texts("stop_strings"),
        end_ids=end_ids,
    )
