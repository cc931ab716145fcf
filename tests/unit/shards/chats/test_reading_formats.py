"""Calls with parameters in tags, in sections and in channels, as people reported them of servers.

Every answer is read whole, in pieces and with tags that are tokens: the outcome is the same.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from aitorrent_shards.chats.values import value_of
from aitorrentd.api.models.tools import Tool
from tests.unit.shards.chats.test_reading import Outcome, read

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "count": {"type": "integer"},
        "deep": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "body": {"anyOf": [{"type": "object"}, {"type": "null"}]},
    },
}
LOOK = Tool(name="look", parameters=SCHEMA)
OFFERED = (LOOK, Tool(name="look_up"), Tool(name="mcp__gmail-cleanup__list_filters"))


def coder(*values: tuple[str, str], name: str = "look") -> str:
    each = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values)
    return f"<tool_call>\n<function={name}>\n{each}</function>\n</tool_call>"


def glm(*values: tuple[str, str], name: str = "look", gap: str = "\n") -> str:
    each = "".join(
        f"<arg_key>{key}</arg_key>{gap}<arg_value>{value}</arg_value>{gap}" for key, value in values
    )
    return f"<tool_call>{name}{gap}{each}</tool_call>"


def section(*calls: str) -> str:
    each = "".join(f"<｜tool▁call▁begin｜>{call}<｜tool▁call▁end｜>" for call in calls)
    return f"<｜tool▁calls▁begin｜>{each}<｜tool▁calls▁end｜>"


SEP = "<｜tool▁sep｜>"
FENCED = f'function{SEP}look\n```json\n{{"city": "Köln"}}\n```'
CODE = 'if a < b && c:\n    print("</b>{")\n\n'
KOELN = ("look", {"city": "Köln"})
ANALYSIS = "<|channel|>analysis<|message|>Let us see.<|end|><|start|>assistant"
COMMENTARY = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"city": "Köln"}'


def called(*calls: tuple[str, dict[str, Any]], text: str = "", thinking: str = "") -> Outcome:
    return Outcome(text, thinking, list(calls), False)


CASES: dict[str, tuple[str, str, Outcome]] = {
    "Coder: one call": (coder(("city", "Köln")), "coder", called(KOELN)),
    "Coder: text before, two calls, text after": (
        f"Let me.\n{coder(('city', 'Köln'))}\n{coder(name='look_up')}\nDone.",
        "coder",
        called(KOELN, ("look_up", {}), text="Let me.\nDone."),
    ),
    # vllm-project/vllm#23324: types of the schema, also as Python writes them
    "Coder: values have the types of the schema": (
        coder(("city", "12"), ("count", "12"), ("deep", "True"), ("tags", "['a', 'b']")),
        "coder",
        called(("look", {"city": "12", "count": 12, "deep": True, "tags": ["a", "b"]})),
    ),
    "Coder: null where the schema takes it": (
        coder(("body", "None"), ("city", "null")),
        "coder",
        called(("look", {"body": None, "city": "null"})),
    ),
    # QwenLM/Qwen3-Coder#480
    "Coder: arrays and objects": (
        coder(("tags", '["a{", "}"]'), ("body", '{"a": [1, {"b": "<x>"}]}')),
        "coder",
        called(("look", {"tags": ["a{", "}"], "body": {"a": [1, {"b": "<x>"}]}})),
    ),
    "Coder: line feeds and signs of a text stay, but one at each edge": (
        coder(("city", CODE)),
        "coder",
        called(("look", {"city": CODE})),
    ),
    # vllm-project/vllm#33965
    "Coder: a text quotes the closing tags": (
        coder(("city", "a </parameter> b </function> c <parameter=x>"), ("count", "1")),
        "coder",
        called(("look", {"city": "a </parameter> b </function> c <parameter=x>", "count": 1})),
    ),
    # vllm-project/vllm#23099
    "Coder: the last closing tag of a value is missing": (
        coder(("city", "Köln")).replace("\n</parameter>", ""),
        "coder",
        called(KOELN),
    ),
    "Coder: the outer tag is missing": (
        coder(("city", "Köln")).removeprefix("<tool_call>\n"),
        "coder",
        called(KOELN),
    ),
    "Coder: no line feeds": (coder(("city", "Köln")).replace("\n", ""), "coder", called(KOELN)),
    "Coder: an empty text": (coder(("city", "")), "coder", called(("look", {"city": ""}))),
    # noonghunna/club-3090#72: prose about the markup is not held back
    "Coder: prose with the tag": (
        "Write <tool_call> and <function=name> first.",
        "coder",
        called(text="Write <tool_call> and <function=name> first."),
    ),
    "Coder: an unknown tool stays text": (
        coder(("city", "a"), name="lookup"),
        "coder",
        called(text=coder(("city", "a"), name="lookup")),
    ),
    "Coder: cut in a value": (
        coder(("city", "Köln"))[:-40],
        "coder",
        Outcome("", "", [], True),
    ),
    "Coder: a call in the reasoning is none": (
        f"<think>{coder()}</think>{coder(('city', 'Köln'))}",
        "coder",
        called(KOELN, thinking=coder()),
    ),
    "GLM: one call": (glm(("city", "Köln")), "glm", called(KOELN)),
    "GLM: no line feeds, two calls": (
        glm(("city", "Köln"), gap="") + glm(("count", "3"), ("deep", "false"), gap=""),
        "glm",
        called(KOELN, ("look", {"count": 3, "deep": False})),
    ),
    # vllm-project/vllm#41654, #44326
    "GLM: no arguments": (
        "<tool_call>mcp__gmail-cleanup__list_filters</tool_call>",
        "glm",
        called(("mcp__gmail-cleanup__list_filters", {})),
    ),
    "GLM: a name that begins with another": (glm(name="look_up"), "glm", called(("look_up", {}))),
    # vllm-project/vllm#49248
    "GLM: the tag before a value is missing": (
        glm(("city", "Köln"), gap="").replace("<arg_value>", ""),
        "glm",
        called(KOELN),
    ),
    # vllm-project/vllm#54971
    "GLM: a tag of the key twice": (
        glm(("city", "Köln"), gap="").replace("</arg_key>", "</arg_key></arg_key>"),
        "glm",
        called(KOELN),
    ),
    "GLM: a text in quotes and with line feeds": (
        glm(("city", f'"{CODE}')),
        "glm",
        called(("look", {"city": f'"{CODE}'})),
    ),
    "GLM: an unknown name, then a call": (
        f"<tool_call>other</tool_call> {glm(('city', 'Köln'))}",
        "glm",
        called(KOELN, text="<tool_call>other</tool_call>"),
    ),
    "MiniMax: two calls in one tag": (
        '<minimax:tool_call>\n<invoke name="look">\n<parameter name="city">Köln</parameter>\n'
        '</invoke>\n<invoke name="look_up">\n</invoke>\n</minimax:tool_call>',
        "invoke",
        called(KOELN, ("look_up", {})),
    ),
    "DeepSeek V3.1: two calls": (
        f"Ok.\n{section(f'look{SEP}' + json.dumps(KOELN[1]), f'look_up{SEP}{{}}')}",
        "deepseek",
        called(KOELN, ("look_up", {}), text="Ok."),
    ),
    # raullenchai/Rapid-MLX#795: the template of V3 under the name of V3.1, and the other way round
    "DeepSeek V3: an object in a fence": (
        section(FENCED, FENCED).replace("<｜tool▁call▁begin｜>f", "\n<｜tool▁call▁begin｜>f"),
        "fenced",
        called(KOELN, KOELN),
    ),
    "DeepSeek V3.1: a fence": (section(FENCED), "deepseek", called(KOELN)),
    "DeepSeek V3: no fence": (section(f'look{SEP}{{"city": "Köln"}}'), "fenced", called(KOELN)),
    # vllm-project/vllm#48931
    "DeepSeek: the outer tag is missing": (
        section(FENCED).removeprefix("<｜tool▁calls▁begin｜>"),
        "fenced",
        called(KOELN),
    ),
    # unslothai/unsloth#5624
    "DeepSeek: prose with an inner tag": (
        "<｜tool▁call▁begin｜>function is a token.",
        "fenced",
        Outcome("", "", [], True),
    ),
    "DeepSeek: braces, quotes and fences in an argument": (
        section(f"look{SEP}" + json.dumps({"city": '```json {"}" ```'})),
        "deepseek",
        called(("look", {"city": '```json {"}" ```'})),
    ),
    "DeepSeek: an unknown tool stays text": (
        section(f"other{SEP}{{}}"),
        "deepseek",
        called(text=section(f"other{SEP}{{}}")),
    ),
    "harmony: reasoning and an answer": (
        f"{ANALYSIS}<|channel|>final<|message|>It is 18 °C.<|return|>",
        "harmony",
        called(text="It is 18 °C.", thinking="Let us see."),
    ),
    "harmony: reasoning and a call": (
        f"{ANALYSIS}{COMMENTARY}<|call|>",
        "harmony",
        called(KOELN, thinking="Let us see."),
    ),
    "harmony: the tag that ends the answer is not in it": (COMMENTARY, "harmony", called(KOELN)),
    # ggml-org/llama.cpp#15181
    "harmony: the recipient after the role": (
        f"{ANALYSIS} to=functions.look<|channel|>commentary json<|message|>"
        '{"city": "Köln"}<|call|>',
        "harmony",
        called(KOELN, thinking="Let us see."),
    ),
    "harmony: the recipient after the prompt": (
        ' to=functions.look<|channel|>commentary <|constrain|>json<|message|>{"city": "Köln"}',
        "harmony",
        called(KOELN),
    ),
    # waybarrios/vllm-mlx#562
    "harmony: a call on the channel of reasoning": (
        f"{ANALYSIS}<|channel|>analysis to=functions.look code<|message|>\n"
        '{"city": "Köln"}<|call|>',
        "harmony",
        called(KOELN, thinking="Let us see."),
    ),
    "harmony: text before a call": (
        f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{COMMENTARY}<|call|>",
        "harmony",
        called(KOELN, text="I look."),
    ),
    # openai/harmony#38, #60
    "harmony: a header with something in it": (
        "<|channel|>––commentary<|message|>a<|end|>b",
        "harmony",
        called(text="a\nb"),
    ),
    "harmony: no header": ("Hello", "harmony", called(text="Hello")),
    "harmony: to a tool of nobody": (
        "<|channel|>commentary to=python code<|message|>print(1)<|call|>",
        "harmony",
        called(text="<|channel|>commentary to=python code<|message|>print(1)"),
    ),
    "harmony: arguments that are no object stay text": (
        COMMENTARY.replace('{"city": "Köln"}', "Köln") + "<|call|>",
        "harmony",
        called(text=COMMENTARY.replace('{"city": "Köln"}', "Köln")),
    ),
    "harmony: a call without arguments": (
        "<|channel|>commentary to=functions.look_up<|message|><|call|>",
        "harmony",
        called(("look_up", {})),
    ),
    "harmony: tags in an argument": (
        COMMENTARY.replace("Köln", "<|end|>") + "<|call|>",
        "harmony",
        called(("look", {"city": "<|end|>"})),
    ),
    "harmony: cut in the arguments": (COMMENTARY[:-3], "harmony", Outcome("", "", [], True)),
    "harmony: cut in the header": (
        "<|channel|>commentary to=functions.look",
        "harmony",
        Outcome("", "", [], True),
    ),
}


@pytest.mark.parametrize(("answer", "kind", "right"), CASES.values(), ids=CASES.keys())
def test_calls_are_read_however_the_answer_is_cut(answer: str, kind: str, right: Outcome) -> None:
    assert read(answer, kind, offered=OFFERED) == right


VALUES: list[tuple[str, Any, Any]] = [
    ("5", {"type": "integer"}, 5),
    (" 5.0 ", {"type": "integer"}, 5),
    ("5.5", {"type": "number"}, 5.5),
    ("five", {"type": "integer"}, "five"),
    ("True", {"type": "boolean"}, True),
    ("FALSE", {"type": ["boolean", "null"]}, False),
    ("None", {"type": ["string", "null"]}, None),
    ("null", {"type": "string"}, "null"),
    ("05", {"type": "string"}, "05"),
    ("7", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, 7),
    ("x", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "x"),
    ("{'a': (1, None)}", {"type": "object"}, {"a": (1, None)}),
    ("__import__('os')", {"type": "object"}, "__import__('os')"),
    ("[" * 5000, {"type": "array"}, "[" * 5000),
    ("NaN", {"type": "number"}, "NaN"),
    ('{"a": 1}', {"$ref": "#/$defs/a~1b"}, {"a": 1}),
    ("2", {"enum": [1, 2]}, 2),
    ("2", {"enum": ["1", "2"]}, "2"),
    ("2", {"const": "2"}, "2"),
    ("2", {"allOf": [{"type": ["string", "integer"]}, {"type": "string"}]}, "2"),
    ("3", {}, 3),
    (" a ", None, " a "),
    ("1", {"$ref": "#/$defs/loop"}, 1),
]
ROOT = {"$defs": {"a/b": {"type": "object"}, "loop": {"$ref": "#/$defs/loop"}}}


@pytest.mark.parametrize(("text", "schema", "right"), VALUES)
def test_text_becomes_a_value_of_the_schema(text: str, schema: Any, right: Any) -> None:
    found = value_of(text, schema, ROOT)
    assert (found, type(found)) == (right, type(right))


def test_text_that_python_would_warn_of_is_read_in_silence() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert value_of("[1if 1 else 2]", {"type": "array"}, {}) == "[1if 1 else 2]"
    assert heard == []
