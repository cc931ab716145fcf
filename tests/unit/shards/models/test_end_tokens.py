"""Which tokens end an answer, and what token ids beyond the tokenizer mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrentd.api import InvalidParams, NotFound
from tests.support.shards.models import EOS_ID, make_model


def make(folder: Path, **files: dict[str, Any] | None) -> Path:
    """A model with these changes in its JSON files; None removes the file."""
    make_model(folder, layers=1)
    for name, changes in files.items():
        path = folder / f"{name}.json"
        if changes is None:
            path.unlink()
            continue
        whole = json.loads(path.read_text()) | changes
        path.write_text(json.dumps(whole))
    return folder


def load(folder: Path) -> ModelTokenizer:
    return ModelTokenizer(read_model(folder), model="m")


CHAT: dict[str, Any] = {"chat_template": "{{ messages[0].content }}"}
ENDS: dict[str, tuple[dict[str, dict[str, Any] | None], set[int]]] = {
    "a number": ({"generation_config": {"eos_token_id": 5}}, {5}),
    "a list": ({"generation_config": {"eos_token_id": [5, 6]}}, {5, 6}),
    "the generation settings win": (
        {"generation_config": {"eos_token_id": 5}, "config": {"eos_token_id": 6}},
        {5},
    ),
    "only in the configuration": (
        {"generation_config": None, "config": {"eos_token_id": [6, 7]}},
        {6, 7},
    ),
    "only in the tokenizer": (
        {"generation_config": None, "config": {"eos_token_id": None}},
        {EOS_ID},
    ),
    "null everywhere but in the tokenizer": (
        {"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": None}},
        {EOS_ID},
    ),
    "an empty list": ({"generation_config": {"eos_token_id": []}}, {EOS_ID}),
    "a turn ends with the tokenizer's": (
        {"generation_config": {"eos_token_id": 5}, "tokenizer_config": CHAT},
        {5, EOS_ID},
    ),
    "nowhere": (
        {
            "generation_config": {"eos_token_id": None},
            "config": {"eos_token_id": None},
            "tokenizer_config": {"eos_token": None},
        },
        set(),
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_answer_ends_with_the_tokens_that_the_files_state(tmp_path: Path, name: str) -> None:
    files, expected = ENDS[name]
    assert load(make(tmp_path / "m", **files)).end_ids == expected


def test_top_k_of_minus_one_means_all(tmp_path: Path) -> None:
    files = {"generation_config": {"do_sample": True, "top_k": -1}}
    assert load(make(tmp_path / "m", **files)).generation.top_k == 0


def test_padding_of_the_vocabulary_has_no_text_and_holds_nothing_back(tmp_path: Path) -> None:
    ours = load(make(tmp_path / "m", config={"vocab_size": 384}))
    ids = ours.encode("ab", raw=True)
    detokenizer = ours.detokenizer(ids)
    words = ours.encode("hello", raw=True)
    pieces = [detokenizer.push(i) for i in (383, *words, 350, *words)]
    assert "".join([*pieces, detokenizer.flush()]) == "hellohello"
    with pytest.raises(InvalidParams, match="context has ids outside the vocabulary of 384"):
        ours.encode("a", context=(384,))


def test_added_token_without_a_row_in_the_model_is_refused(tmp_path: Path) -> None:
    added = {"320": {"content": "<|new|>", "special": True}}
    ours = load(make(tmp_path / "m", tokenizer_config={"added_tokens_decoder": added}))
    assert ours.encode("plain", raw=True)
    with pytest.raises(InvalidParams, match="tokenizer of m has ids that are outside the model's"):
        ours.encode("a <|new|>", raw=True)


def test_model_with_only_a_slow_tokenizer_is_told_how_to_convert_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(NotFound, match=r"fast tokenizer is needed.*save_pretrained\(folder\)"):
        read_model(folder)
