"""Special tokens are found wherever a model's files name them, as transformers finds them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrentd.api import InvalidParams
from tests.support.shards.models import make_model

CASES = Path(__file__).parents[3] / "cases" / "inference"
TALK = [{"role": "user", "content": "hi"}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}<|x|>{{ m.content }}{{ eos_token }}"
    "{{ image_token }}{{ pad_token }}{% endfor %}<|turn|>"
)


def load(folder: Path) -> ModelTokenizer:
    return ModelTokenizer(read_model(folder), model="m")


@pytest.mark.parametrize(
    "name", ["special-tokens-map", "tools-none", "documents-none", "named-special-token"]
)
def test_conversation_is_written_as_the_models_files_say(tmp_path: Path, name: str) -> None:
    for source in (CASES / "models" / "common", CASES / "models" / "stale-index"):
        shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    shutil.copytree(CASES / "tokenizers" / name, tmp_path, dirs_exist_ok=True)
    expected = json.loads((tmp_path / "expected.json").read_text())
    if name != "special-tokens-map":
        expected = json.loads((CASES / "tokenizers" / name / "expected.json").read_text())
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.encode(None, expected["messages"])
    assert list(ids) == theirs(expected["prompt_text"], add_special_tokens=False)["input_ids"]
    if "first_id" in expected:
        assert ids[0] == expected["first_id"]
        assert ours.end_ids == set(expected["end_ids"])


def _entry(content: str, **flags: bool) -> dict[str, Any]:
    usual = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, "special": True} | usual | flags


VARIANTS: dict[str, dict[str, Any]] = {
    "roles in the settings": {"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"}},
    "roles in the map only": {
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    },
    "the map wins": {
        "tokenizer_config.json": {"bos_token": "a", "eos_token": "</s>"},
        "special_tokens_map.json": {"bos_token": "<s>"},
    },
    "listed tokens, so no map": {
        "tokenizer_config.json": {"added_tokens_decoder": {"256": _entry("<s>")}},
        "special_tokens_map.json": {"bos_token": "<s>"},
    },
    "listed only": {
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "added_tokens_decoder": {
                "256": _entry("<s>"),
                "257": _entry("</s>"),
                "321": _entry("<|x|>"),
                "320": _entry("<|turn|>", special=False),
            },
        }
    },
    "listed with other flags": {
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "added_tokens_decoder": {
                "256": _entry("<s>", rstrip=True),
                "320": _entry("<|turn|>", lstrip=True, rstrip=True),
            },
        }
    },
    "further tokens, as a list": {
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "additional_special_tokens": ["<|turn|>", {"content": "<|x|>", "__type": "AddedToken"}],
        }
    },
    "further tokens, by name": {
        "tokenizer_config.json": {
            "extra_special_tokens": {"image_token": "<|turn|>"},
            "eos_token": "</s>",
        }
    },
    "a name of the model's own": {"tokenizer_config.json": {"image_token": "<|x|>"}},
    "legacy added tokens": {
        "added_tokens.json": {"<|turn|>": 320, "<|x|>": 321},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "<|x|>"},
    },
    "a named token that no file lists": {"tokenizer_config.json": {"pad_token": "<|pad|>"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_those_of_transformers_wherever_they_are_named(
    tmp_path: Path, variant: str
) -> None:
    make_model(tmp_path, vocab=320)
    for name in ("tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 400}))
    files = VARIANTS[variant]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    files = files | {"tokenizer_config.json": settings | files.get("tokenizer_config.json", {})}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    ours = load(tmp_path)
    expected = theirs.apply_chat_template(
        TALK, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    found = list(ours.encode(None, TALK))
    assert found == expected, (theirs.decode(found), theirs.decode(expected))
    for text in ("<s>a <|turn|> b<|x|>", "hi</s><|pad|>"):
        assert list(ours.encode(text, raw=True)) == theirs(text)["input_ids"]
        detokenizer = ours.detokenizer(())
        ids: Any = theirs(text)["input_ids"]
        pieces = [detokenizer.push(i) for i in ids] + [detokenizer.flush()]
        assert "".join(pieces) == theirs.decode(ids, skip_special_tokens=True)
    if theirs.eos_token_id is not None:
        assert theirs.eos_token_id in ours.end_ids


@pytest.mark.parametrize(
    "listed", [{"a": _entry("<s>")}, {"1": "x"}, {"1": {"special": True}}], ids=str
)
def test_damaged_list_of_tokens_is_named(tmp_path: Path, listed: dict[str, Any]) -> None:
    make_model(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    with pytest.raises(
        InvalidParams,
        match=r"tokenizer_config\.json: (a token has no content|added_tokens_decoder must)",
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.role }} {% endfor %}", "system user "),
        (
            "{% for m in messages %}{{ m.role if m.role in ['developer', 'user'] }} {% endfor %}",
            "developer user ",
        ),
    ],
)
def test_developer_is_the_system_where_the_template_knows_no_developer(
    tmp_path: Path, template: str, expected: str
) -> None:
    make_model(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    ours = load(tmp_path)
    talk = [{"role": "developer", "content": "be brief"}, *TALK]
    assert ours.encode(None, talk) == ours.encode(expected, raw=True)
