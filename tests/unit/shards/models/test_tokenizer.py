"""Prompts become the ids that transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrentd.api import InvalidParams

TEMPLATE = """\
{{ bos_token }}{% for m in messages %}
    {%- if m.role == 'system' %}
[{{ m.content | trim }}]
    {% else %}
<{{ m.role }}> {{ m.content }}{{ eos_token if m.role == 'assistant' else '' }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}<assistant> {% endif %}
"""
TALK = [
    {"role": "system", "content": "  Be brief.  "},
    {"role": "user", "content": "Grüße & <tags>, 世界"},
    {"role": "assistant", "content": "ok"},
    {"role": "user", "content": "why?"},
]
TEXTS = ["hello", " leading", "trailing ", "two\n\nlines", "Grüße 世界 🌍", "<s>x</s>"]


def make(folder: Path, *, bos: bool, settings: dict[str, Any], jinja: str | None = None) -> Path:
    """A model folder with a byte-level tokenizer; `bos` puts <s> first, in tokenizer.json."""
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 256)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"num_hidden_layers": 1, "vocab_size": 258, "eos_token_id": 257}
    (folder / "config.json").write_text(json.dumps(config))
    usual = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(usual | settings))
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja)
    return folder


def load(folder: Path) -> ModelTokenizer:
    return ModelTokenizer(read_model(folder), model="m")


@pytest.mark.parametrize("bos", [False, True])
def test_raw_prompts_become_the_ids_of_transformers(tmp_path: Path, bos: bool) -> None:
    folder = make(tmp_path / "m", bos=bos, settings={})
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert list(ours.encode(text)) == theirs(text)["input_ids"], text


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "LlamaTokenizerFast", None])
@pytest.mark.parametrize("stated", [None, False])
@pytest.mark.parametrize("bos", [False, True])
def test_tokenizer_json_counts_whatever_class_the_settings_name(
    tmp_path: Path, bos: bool, stated: bool | None, kind: str | None
) -> None:
    """Distilled models name LlamaTokenizerFast beside a byte-level tokenizer.json."""
    settings = {"tokenizer_class": kind, "add_bos_token": stated, "add_eos_token": stated}
    folder = make(tmp_path / "m", bos=bos, settings={})
    path = folder / "tokenizer_config.json"
    given = {k: v for k, v in settings.items() if v is not None}
    path.write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"} | given))
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert list(ours.encode(text, raw=True)) == theirs(text)["input_ids"], text


@pytest.mark.parametrize("clean_up", [True, False])
def test_spaces_before_punctuation_stay_whatever_the_settings_say(
    tmp_path: Path, clean_up: bool
) -> None:
    settings = {"clean_up_tokenization_spaces": clean_up}
    folder = make(tmp_path / "m", bos=False, settings=settings)
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    text = "do n't , you ? x != y ."
    ids = ours.encode(text, raw=True)
    detokenizer = ours.detokenizer(())
    pieces = [detokenizer.push(i) for i in ids] + [detokenizer.flush()]
    assert "".join(pieces) == text == theirs.decode(list(ids))


@pytest.mark.parametrize("where", ["settings", "named", "file"])
@pytest.mark.parametrize("bos", [False, True])
def test_conversations_become_the_ids_of_transformers(
    tmp_path: Path, where: str, bos: bool
) -> None:
    choices: dict[str, dict[str, Any]] = {
        "settings": {"chat_template": TEMPLATE},
        "named": {"chat_template": [{"name": "default", "template": TEMPLATE}]},
        "file": {"chat_template": "not this one"},
    }
    settings = choices[where]
    jinja = TEMPLATE if where == "file" else None
    folder = make(tmp_path / "m", bos=bos, settings=settings, jinja=jinja)
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        TALK, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert list(load(folder).encode(None, TALK)) == theirs


def test_prompt_is_a_users_turn_where_there_are_turns(tmp_path: Path) -> None:
    ours = load(make(tmp_path / "m", bos=True, settings={"chat_template": TEMPLATE}))
    assert ours.encode("why?") == ours.encode(None, [{"role": "user", "content": "why?"}])
    assert ours.end_ids == {257}


def test_raw_prompt_gets_no_template(tmp_path: Path) -> None:
    ours = load(make(tmp_path / "m", bos=True, settings={"chat_template": TEMPLATE}))
    plain = load(make(tmp_path / "n", bos=True, settings={}))
    assert ours.encode("why?", raw=True) == plain.encode("why?") != ours.encode("why?")


def test_context_is_followed_by_the_new_turn_without_another_beginning(tmp_path: Path) -> None:
    ours = load(make(tmp_path / "m", bos=True, settings={"chat_template": TEMPLATE}))
    turn = ours.encode("why?")
    assert turn[0] == 256
    assert ours.encode("why?", context=(1, 2, 3)) == (1, 2, 3, *turn[1:])


def test_added_beginning_of_the_settings_is_kept(tmp_path: Path) -> None:
    ours = load(make(tmp_path / "m", bos=False, settings={"add_bos_token": True}))
    assert ours.encode("a")[0] == 256
    assert ours.encode("<s>a").count(256) == 1


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for", "chat template of m is damaged"),
        (
            "{{ raise_exception('roles must alternate') }}",
            "rejects this conversation: roles must alternate",
        ),
        ("{{ messages.__class__.__mro__ }}", "rejects this conversation"),
        ("{{ messages.append(1) }}", "rejects this conversation"),
        ("{{ 1 / 0 }}", "rejects this conversation"),
    ],
)
def test_bad_template_is_an_error_with_its_reason(tmp_path: Path, template: str, text: str) -> None:
    folder = make(tmp_path / "m", bos=False, settings={"chat_template": template})
    with pytest.raises(InvalidParams, match=text):
        load(folder).encode(None, TALK)


def test_template_may_use_what_transformers_gives(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}"
        "{% break %}{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    folder = make(tmp_path / "m", bos=False, settings={"chat_template": template})
    ours = load(folder)
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        TALK[1:], tokenize=True, return_dict=False
    )
    assert list(ours.encode(None, TALK[1:])) == theirs


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    folder = make(tmp_path / "m", bos=False, settings={})
    (folder / file).write_bytes(b'{"a": \xff')
    with pytest.raises(InvalidParams, match=file):
        load(folder)
