"""Chat templates are found where a model's files keep them, and render as in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from aitorrent_shards.chats.messages import template_messages, template_tools
from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrentd.api import InvalidParams, Message
from aitorrentd.api.models.tools import Tool
from tests.support.shards.models import make_model

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Grüße <b>"}]
PICK = "{% for m in messages %}{{ m.content }}{% endfor %}"


def make(folder: Path, settings: dict[str, Any], files: dict[str, str] | None = None) -> Path:
    make_model(folder, layers=1)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def load(folder: Path) -> ModelTokenizer:
    return ModelTokenizer(read_model(folder), model="m")


def theirs(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder).apply_chat_template(
        TALK, add_generation_prompt=True, tokenize=True, return_dict=False
    )


RENDERED = {
    "a block for training is a scope": (
        "{% set x = 'a' %}{% generation %}{% set x = 'b' %}{{ x }}{% endgeneration %}{{ x }}"
    ),
    "a block for training in a loop": (
        "{% for m in messages %}\n{% if m.role == 'assistant' %}{% generation %}\n{{ m.content }}\n"
        "{% endgeneration %}\n{% else %}\n{{ m.content }}\n{% endif %}\n{% endfor %}\n"
    ),
    "JSON": "{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true) }}",
    "what is defined": (
        "{{ enable_thinking is defined }}{{ continue_final_message is defined }}{{ tools is none }}"
        "{{ strftime_now is defined }}{{ messages[0].tool_calls is defined }}{{ date_string }}"
    ),
    "the date": "{{ strftime_now('%d %b %Y') }}",
    "methods of texts": "{{ messages[1]['content'].strip().split('ü') | join('|') }}",
    "a namespace": (
        "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}"
        "{%- endfor -%}{{ ns.n }}"
    ),
    "an exception that is not met": "{% if not messages %}{{ raise_exception('x') }}{% endif %}y",
    "white space": "a  \n  {% if true %}  \n b{% endif %}\n\n",
}


@pytest.mark.parametrize("name", RENDERED)
def test_template_renders_as_in_transformers(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "m", {"chat_template": RENDERED[name]})
    assert list(load(folder).encode(None, TALK)) == theirs(folder)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BEGUN = {
    "as it is": (CHATML, "The answer is"),
    "with a space at the end": (CHATML, "The answer is "),
    "with space around": (CHATML, " \n The answer is \n"),
    "trimmed": (CHATML.replace("m.content", "m.content | trim"), " The answer is "),
    "trimmed, no space": (CHATML.replace("m.content", "m.content.strip()"), "The answer is"),
    "said before": (CHATML, "hi"),
    "one character": (CHATML, "{"),
    "always a prompt at the end": (CHATML.partition("{% if add")[0] + "[assistant]", "Grüße 😀"),
    "said twice": (PICK + PICK, "a"),
    "a special token": (CHATML, "a</s>b"),
    "reasoning": (
        CHATML.replace("m.content", "m.content.split('</think>')[-1].lstrip()"),
        "\nThe answer",
    ),
}


@pytest.mark.parametrize("name", BEGUN)
def test_begun_turn_is_continued_as_in_transformers(tmp_path: Path, name: str) -> None:
    template, begun = BEGUN[name]
    folder = make(tmp_path / "m", {"chat_template": template})
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": begun}]
    right = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        talk, continue_final_message=True, tokenize=True, return_dict=False
    )
    assert list(load(folder).encode(None, talk, continues=True)) == right


def test_begun_turn_that_the_template_leaves_out_is_not_lost_in_silence(tmp_path: Path) -> None:
    only_user = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    ours = load(make(tmp_path / "m", {"chat_template": only_user}))
    with pytest.raises(InvalidParams, match="leaves out the last turn, which the answer would"):
        ours.encode(None, TALK, continues=True)


WITH_TOOLS = (
    "{% if not tools is defined %}{% set tools = none %}{% endif %}"
    "{% for t in tools or [] %}{{ t | tojson(indent=4) }}{% endfor %}"
    "{% for m in messages %}{{ m.role }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}"
    "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}{% endfor %}"
    "{% endfor %}{{ enable_thinking }}"
)


def test_tools_render_as_in_transformers(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": WITH_TOOLS}]
    folder = make(tmp_path / "m", {"chat_template": named})
    tool = Tool(name="look", description="Grüße", parameters={"type": "object"}, strict=True)
    call = {"id": "c", "name": "look", "arguments": '{"city": "Köln"}'}
    turns = (
        Message.model_validate({"role": "user", "content": "hi"}),
        Message.model_validate({"role": "assistant", "tool_calls": [call]}),
        Message.model_validate({"role": "tool", "content": "18", "tool_call_id": "c"}),
    )
    messages, tools = template_messages(turns), template_tools([tool])
    right = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages,
        tools=[*tools],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        enable_thinking=False,
    )
    ours = load(folder).encode(None, messages, tools=tools, variables={"enable_thinking": False})
    assert list(ours) == right
    assert "strict" not in tools[0]["function"]


PLACES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a list of named ones": (
        {
            "chat_template": [
                {"name": "rag", "template": "x"},
                {"name": "default", "template": PICK},
            ]
        },
        {},
    ),
    "a map": ({"chat_template": {"default": PICK, "rag": "x"}}, {}),
    "a folder": ({}, {"additional_chat_templates/default.jinja": PICK}),
    "a file and a folder": (
        {"chat_template": "x"},
        {"additional_chat_templates/rag.jinja": "y", "chat_template.jinja": PICK},
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_template_is_found_where_transformers_finds_it(tmp_path: Path, place: str) -> None:
    folder = make(tmp_path / "m", *PLACES[place])
    assert list(load(folder).encode(None, TALK)) == theirs(folder)


def test_template_of_a_processor_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    processor = {"chat_template.json": json.dumps({"chat_template": PICK})}
    folder = make(tmp_path / "m", {}, processor)
    assert load(folder).encode(None, TALK) == load(folder).encode("hiGrüße <b>", raw=True)
    folder = make(tmp_path / "n", {"chat_template": "yes"}, processor)
    assert load(folder).encode(None, TALK) == load(folder).encode("yes", raw=True)


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"chat_template": [{"name": "rag", "template": "x"}]}, {}),
        ({"chat_template": {"rag": "x"}}, {}),
        ({}, {"additional_chat_templates/rag.jinja": "x"}),
    ],
)
def test_prompt_is_never_sent_bare_to_a_model_with_only_other_templates(
    tmp_path: Path, settings: dict[str, Any], files: dict[str, str]
) -> None:
    ours = load(make(tmp_path / "m", settings, files))
    for prompt, messages in (("hi", []), (None, TALK)):
        with pytest.raises(InvalidParams, match="chat templates named rag, but none named default"):
            ours.encode(prompt, messages)
    assert ours.encode("hi", raw=True)


def test_template_that_is_too_large_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", {}, {"chat_template.jinja": "x" * (2**20 + 1)})
    with pytest.raises(InvalidParams, match=r"chat_template\.jinja is larger than"):
        load(folder)
