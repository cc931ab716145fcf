"""Every setting of generation_config.json is applied, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_shards.answering.limits import room_for
from aitorrent_shards.models.generation_config import GenerationSettings, read_generation
from aitorrentd.api import InvalidParams

WHERE = "m/generation_config.json"


@pytest.mark.parametrize(
    "stated",
    [
        {"num_beams": 4},
        {"num_return_sequences": 2},
        {"typical_p": 0.9},
        {"epsilon_cutoff": 1e-3},
        {"eta_cutoff": 1e-3},
        {"top_h": 0.4},
        {"encoder_repetition_penalty": 1.2},
        {"encoder_no_repeat_ngram_size": 2},
        {"penalty_alpha": 0.6},
        {"dola_layers": "low"},
        {"guidance_scale": 1.5},
        {"sequence_bias": [[[5], -1.0]]},
        {"forced_bos_token_id": 3},
        {"forced_eos_token_id": 3},
        {"exponential_decay_length_penalty": [10, 1.1]},
        {"watermarking_config": {"bias": 2.5}},
        {"token_healing": True},
        {"max_time": 2.0},
        {"repetition_penalty": 0},
        {"repetition_penalty": "1.1"},
        {"temperature": -1, "do_sample": True},
        {"top_k": 1.5},
        {"top_p": 2},
        {"min_p": -0.1},
        {"suppress_tokens": ["a"]},
        {"bad_words_ids": [[]]},
        {"bad_words_ids": [5]},
        {"no_repeat_ngram_size": True},
        {"eos_token_id": "</s>"},
        {"stop_strings": [3]},
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(stated: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams, match=rf"{WHERE}: {next(iter(stated))} is "):
        read_generation(stated, WHERE)


def test_settings_that_change_no_answer_are_let_through() -> None:
    neutral = {
        "num_beams": 1,
        "typical_p": 1.0,
        "guidance_scale": None,
        "encoder_repetition_penalty": 1,
        "token_healing": False,
        "use_cache": True,
        "cache_implementation": "static",
        "renormalize_logits": True,
        "output_scores": True,
        "pad_token_id": 3,
        "transformers_version": "5.0",
        "_from_model_config": True,
        "repetition_penalty": None,
        "suppress_tokens": None,
        "made_by": "somebody",
    }
    assert read_generation(neutral, WHERE) == GenerationSettings()


def test_all_that_can_be_applied_is_taken() -> None:
    stated = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "min_p": 0.1,
        "repetition_penalty": 1.05,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": [1, 2],
        "begin_suppress_tokens": [3],
        "bad_words_ids": [[4], [5, 6], [7]],
        "min_new_tokens": 2,
        "eos_token_id": [7, 8],
        "max_new_tokens": 40,
        "stop_strings": "END",
    }
    found = read_generation(stated, WHERE)
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.6, 50, 0.95, 0.1)
    assert found.rules.repetition_penalty == 1.05
    assert found.rules.bad_words == ((4,), (5, 6))  # an end is never a bad word
    assert found.rules.suppressed == {1, 2}
    assert found.end_ids == {7, 8}
    assert (found.max_new_tokens, found.stop_texts) == (40, ("END",))


def test_without_do_sample_an_answer_is_greedy_but_the_rest_holds() -> None:
    found = read_generation({"temperature": 0.6, "top_p": 0.8, "repetition_penalty": 1.2}, WHERE)
    assert (found.temperature, found.top_k, found.top_p) == (0.0, 0, 0.8)
    assert found.rules.repetition_penalty == 1.2


@pytest.mark.parametrize(
    ("stated", "wanted", "expected"),
    [
        ({}, None, 990),
        ({}, -1, 990),
        ({"max_new_tokens": 8}, None, 8),
        ({"max_new_tokens": 8}, 30, 30),
        ({"max_new_tokens": 8}, -1, 990),
        ({"max_new_tokens": 2000}, None, 990),
        ({"max_length": 40}, None, 30),
        ({"max_length": 4096}, None, 990),
        ({"max_length": 5}, None, 990),
    ],
)
def test_a_models_own_length_holds_where_the_request_says_none(
    stated: dict[str, Any], wanted: int | None, expected: int
) -> None:
    settings = read_generation(stated, WHERE)
    assert room_for(10, wanted, 1000, model="m", settings=settings) == expected


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [
        (None, None, 4096),
        (None, 100_000, 4096),
        (None, 2000, 990),
        (None, 0, 256),
        (-1, None, 9990),
        (-1, 8000, 3990),
        (5000, 0, 5000),
    ],
)
def test_answer_without_a_limit_leaves_memory_to_others(
    wanted: int | None, free: int | None, expected: int
) -> None:
    settings = read_generation({}, WHERE)
    assert room_for(10, wanted, 10_000, model="m", settings=settings, free=free) == expected
