"""Calls are passed on while the model writes them, in each format; what people reported of servers
that stream calls does not happen.

Answers are read character by character, in pieces of four, and as a whole: the parts add up to the
same call.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_shards.chats.pieces import Piece
from aitorrentd.api.models.tools import Tool
from tests.support.effort import examples
from tests.unit.shards.chats.test_reading import CALL, call, check_parts, reader_of
from tests.unit.shards.chats.test_reading_formats import SCHEMA, SEP, coder, glm, section

OFFERED = (Tool(name="look", parameters=SCHEMA), Tool(name="run_shell"))
RAW = '{"city":"Köln",  "count": 3,"deep":true}'
TAGGED = (("city", "Köln"), ("count", "3"), ("deep", "true"))
FROM_TAGS = '{"city": "Köln", "count": 3, "deep": true}'
HARMONY = "<|channel|>commentary to=functions.look <|constrain|>json<|message|>"


def invoke(*values: tuple[str, str]) -> str:
    each = "".join(f'<parameter name="{key}">{value}</parameter>\n' for key, value in values)
    return f'<minimax:tool_call>\n<invoke name="look">\n{each}</invoke>\n</minimax:tool_call>'


FORMATS: dict[str, tuple[str, str, str]] = {
    "Hermes, Qwen": ("hermes", call(RAW), RAW),
    "Llama 3": ("llama", f'{{"name": "look", "parameters": {RAW}}}', RAW),
    "Mistral, Granite": ("list", f'[TOOL_CALLS][{{"name": "look", "arguments": {RAW}}}]', RAW),
    "Mistral": ("args", f"[TOOL_CALLS]look[ARGS]{RAW}", RAW),
    "DeepSeek V3": ("fenced", section(f"function{SEP}look\n```json\n{RAW}\n```"), RAW),
    "DeepSeek V3.1": ("deepseek", section(f"look{SEP}{RAW}"), RAW),
    "gpt-oss": ("harmony", f"{HARMONY}{RAW}<|call|>", RAW),
    "Qwen3-Coder, Seed-OSS": ("coder", coder(*TAGGED), FROM_TAGS),
    "GLM": ("glm", glm(*TAGGED), FROM_TAGS),
    "MiniMax": ("invoke", invoke(*TAGGED), FROM_TAGS),
}


class Streamed(NamedTuple):
    text: str
    calls: list[tuple[str, str]]
    "Whole calls."
    parts: list[str]
    "The arguments of each call, put together from its parts."
    is_cut: bool


def pieces_of(answer: str, kind: str, size: int) -> tuple[list[Piece], bool]:
    reader = reader_of(kind, offered=OFFERED)
    pieces: list[Piece] = []
    for at in range(0, len(answer), size):
        pieces += reader.push(answer[at : at + size])
    last, is_cut = reader.finish()
    check_parts([*pieces, *last])
    return [*pieces, *last], is_cut


def streamed(answer: str, kind: str) -> Streamed:
    found = []
    for size in (1, 4, len(answer)):
        pieces, is_cut = pieces_of(answer, kind, size)
        parts: list[str] = []
        for piece in pieces:
            if piece.part is not None and piece.part.name:
                assert (piece.part.name, bool(piece.part.id)) == ("look", True)
                parts.append("")
            if piece.part is not None:
                parts[-1] += piece.part.arguments
        calls = [(p.call.name, p.call.arguments) for p in pieces if p.call is not None]
        text = "".join(piece.text for piece in pieces)
        found.append(Streamed(text, calls, parts, is_cut))
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize("name", FORMATS)
def test_call_is_passed_on_as_it_is_written(name: str) -> None:
    kind, answer, arguments = FORMATS[name]
    assert streamed(answer, kind) == Streamed("", [("look", arguments)], [arguments], False)
    reader = reader_of(kind, offered=OFFERED)
    told_after = [
        n for n, char in enumerate(answer) for p in reader.push(char) if p.part is not None
    ]
    assert len(told_after) >= 4
    assert told_after[0] < answer.index("Köln") + 1 < told_after[-1]


REPORTED: dict[str, tuple[str, str, Streamed]] = {
    # vllm-project/vllm#10395: a text was sent twice, with a quote in its middle
    "a number, an empty beginning of a text, a text": (
        call('{"wd": 23, "sd": 0.8, "injection": "ZSJB39"}'),
        "hermes",
        Streamed("", [], ['{"wd": 23, "sd": 0.8, "injection": "ZSJB39"}'], False),
    ),
    # vllm-project/vllm#21544, #10781: braces and escaped quotes cut the arguments
    "escaped quotes and single braces in a text": (
        call(r'{"city": "say \"}\" {a,{b \\"}'),
        "hermes",
        Streamed("", [], [r'{"city": "say \"}\" {a,{b \\"}'], False),
    ),
    # sgl-project/sglang#12626, vllm-project/vllm#17703: escapes came twice, or made a second call
    "escapes of characters, and such characters": (
        call(r'{"city": "M\u00fcnster \ud83d\ude00 ü"}'),
        "hermes",
        Streamed("", [], [r'{"city": "M\u00fcnster \ud83d\ude00 ü"}'], False),
    ),
    # vllm-project/vllm#28806, NVIDIA/TensorRT-LLM#19228: nothing at all for a tool without any
    "empty arguments": (call("{}"), "hermes", Streamed("", [], ["{}"], False)),
    "no parameter": (coder(), "coder", Streamed("", [], ["{}"], False)),
    # NVIDIA/TensorRT-LLM#19228: counting braces left out the last one
    "a brace as a parameter": (
        coder(("city", "}")),
        "coder",
        Streamed("", [], ['{"city": "}"}'], False),
    ),
    # vllm-project/vllm#35716: the first brace was left out when tags came together
    "tags that arrive together": (
        coder(("city", "echo hi")),
        "coder",
        Streamed("", [], ['{"city": "echo hi"}'], False),
    ),
    # sgl-project/sglang#36339: the end of one argument was lost, and the next one began inside it
    "lists of objects between texts": (
        coder(("city", "a"), ("tags", '[{"b": "c\\"d"}]'), ("body", "{}")),
        "coder",
        Streamed("", [], ['{"city": "a", "tags": [{"b": "c\\"d"}], "body": {}}'], False),
    ),
    # smg-project/smg#2271: what begins like a call and is none was swallowed
    "JSON that is no call": (
        '{"name": "other", "parameters": {}} is all',
        "llama",
        Streamed('{"name": "other", "parameters": {}} is all', [], [], False),
    ),
    # vllm-project/vllm#19056: the text before and after was lost
    "text around": (
        f"I look.\n{CALL}\nDone.",
        "hermes",
        Streamed("I look.\nDone.", [], ['{"city": "Köln"}'], False),
    ),
    # ai-dynamo/dynamo#4723
    "two calls": (
        call('{"city": "a"}') + call('{"city": "b"}'),
        "hermes",
        Streamed("", [], ['{"city": "a"}', '{"city": "b"}'], False),
    ),
    # pydantic/pydantic-ai#1802: null is no object, and nothing to pass on in parts
    "null": (call("null"), "hermes", Streamed("", [("look", "{}")], [], False)),
    "arguments before the name": (
        '<tool_call>{"arguments": {"city": "a"}, "name": "look"}</tool_call>',
        "hermes",
        Streamed("", [("look", '{"city": "a"}')], [], False),
    ),
    "an object as a text": (
        call(json.dumps('{"city": "a"}')),
        "hermes",
        Streamed("", [("look", '{"city": "a"}')], [], False),
    ),
    "a line feed inside a text, which JSON does not allow": (
        call('{"city": "a\nb"}'),
        "hermes",
        Streamed("", [], ['{"city": "a\\nb"}'], False),
    ),
    "the last brace is missing": (
        '<tool_call>{"name": "look", "arguments": {"city": "a"}</tool_call> so',
        "hermes",
        Streamed("so", [], ['{"city": "a"}'], False),
    ),
    "the answer ends where only a brace is missing": (
        '<tool_call>{"name": "look", "arguments": {"city": "a"}',
        "hermes",
        Streamed("", [], ['{"city": "a"}'], False),
    ),
    "a parameter that comes twice": (
        coder(("city", "a"), ("city", "b")),
        "coder",
        Streamed("", [], ['{"city": "a", "city": "b"}'], False),
    ),
    "a number that JSON does not have": (
        coder(("count", "1e999")),
        "coder",
        Streamed("", [], ['{"count": "1e999"}'], False),
    ),
}


@pytest.mark.parametrize("name", REPORTED)
def test_reported_fault_of_streams_does_not_happen(name: str) -> None:
    answer, kind, expected = REPORTED[name]
    calls = expected.calls or [("look", arguments) for arguments in expected.parts]
    found = streamed(answer, kind)
    assert (found.text.strip(), found.parts, found.is_cut) == (
        expected.text,
        expected.parts,
        expected.is_cut,
    )
    assert found.calls == calls
    for _, arguments in found.calls:
        assert isinstance(json.loads(arguments), dict)


MALFORMED: dict[str, tuple[str, str, str, str]] = {
    "a word without quotes": (call("{city: Köln}"), "hermes", "{city: Köln}", ""),
    "a tag inside the object": (
        '[TOOL_CALLS]look[ARGS]{"city": "a", oops} so',
        "args",
        '{"city": "a", oops}',
        "so",
    ),
    "a parameter without a name": (
        coder(("city", "a"), ("", "b")),
        "coder",
        '{"city": "a"',
        ">\nb\n</parameter>\n</function>\n</tool_call>",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_call_that_is_malformed_after_its_name_stays_one(name: str) -> None:
    """What was passed on cannot be taken back, and no tool may run with half of its arguments: they
    are what the model wrote, as vLLM and SGLang have it."""
    answer, kind, arguments, text = MALFORMED[name]
    found = streamed(answer, kind)
    assert (found.calls, found.parts) == ([("look", arguments)], [arguments])
    assert (found.text.strip(), found.is_cut) == (text, False)
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(arguments)


@pytest.mark.parametrize("kind", ["hermes", "coder", "args", "deepseek", "harmony"])
def test_call_that_is_cut_off_has_parts_and_never_comes_whole(kind: str) -> None:
    answer, arguments = next((a, raw) for k, a, raw in FORMATS.values() if k == kind)
    found = streamed(answer[: answer.index("deep")], kind)
    assert (found.calls, found.is_cut) == ([], True)
    assert arguments.startswith(found.parts[0])
    assert "count" in found.parts[0] or kind == "coder"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.booleans(), st.data())
@settings(max_examples=examples(60), deadline=None)
def test_any_arguments_arrive_byte_for_byte(
    arguments: dict[str, Any], is_ascii: bool, data: st.DataObject
) -> None:
    text = json.dumps(arguments, ensure_ascii=is_ascii)
    for kind in ("hermes", "llama", "args", "deepseek", "harmony"):
        answer = next(a for k, a, _ in FORMATS.values() if k == kind).replace(RAW, text)
        at = data.draw(st.integers(0, len(answer)))
        reader = reader_of(kind, offered=OFFERED)
        pieces = [*reader.push(answer[:at]), *reader.push(answer[at:]), *reader.finish()[0]]
        check_parts(pieces)
        assert "".join(p.part.arguments for p in pieces if p.part is not None) == text
        assert [p.call.arguments for p in pieces if p.call is not None] == [text]
