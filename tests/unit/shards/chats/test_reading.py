"""Answers of models split into reasoning, text and calls, as people reported them of other servers.

Every answer is read whole, character by character, and in pieces of three: the outcome is the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_shards.chats.formats import Style, Tag, ToolFormat, think_tags, tool_format
from aitorrent_shards.chats.harmony import HarmonyReader
from aitorrent_shards.chats.pieces import Piece, Reader
from aitorrent_shards.chats.reading import AnswerReader
from aitorrentd.api import Chunk
from aitorrentd.api.models.call_parts import CallSteps
from aitorrentd.api.models.tools import Tool
from tests.support.effort import examples

HERMES = "<tools> {{ tools }} <tool_call> {} </tool_call>"
LLAMA = '{"name": function name, "parameters": dictionary of argument name and its value}'
MISTRAL = "[AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] length 9"
MISTRAL_ARGS = "[AVAILABLE_TOOLS] [TOOL_CALLS] [CALL_ID] [ARGS]"
CODER = "<tool_call> <function=name> <parameter=key> </parameter> </function> </tool_call>"
GLM = "<tool_call>{name} <arg_key> </arg_key> <arg_value> </arg_value> </tool_call>"
INVOKE = '<minimax:tool_call> <invoke name="x"> <parameter name="y"> </invoke>'
DEEPSEEK = "<｜tool▁calls▁begin｜> <｜tool▁call▁begin｜> <｜tool▁sep｜>"
FENCED = f"{DEEPSEEK} ```json"
HARMONY = "<|start|>system<|channel|>analysis<|message|>"
TEMPLATES = {
    "hermes": HERMES,
    "llama": LLAMA,
    "list": MISTRAL,
    "args": MISTRAL_ARGS,
    "coder": CODER,
    "glm": GLM,
    "invoke": INVOKE,
    "deepseek": DEEPSEEK,
    "fenced": FENCED,
    "harmony": HARMONY,
}
THINK = think_tags("<think></think>", lambda text: None)
OFFERED = (Tool(name="look"), Tool(name="run_shell"))
CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Köln"}}\n</tool_call>'
KOELN = ("look", {"city": "Köln"})


class Outcome(NamedTuple):
    text: str
    thinking: str
    calls: list[tuple[str, dict[str, Any]]]
    is_cut: bool


def format_of(kind: str, tokens: bool = False) -> ToolFormat:
    ids: dict[str, int] = {}
    found = tool_format(
        TEMPLATES[kind], lambda text: ids.setdefault(text, 1000 + len(ids)) if tokens else None
    )
    assert found is not None
    return found


def reader_of(
    kind: str | None,
    *,
    is_thinking: bool = False,
    tokens: bool = False,
    offered: Sequence[Tool] = OFFERED,
) -> Reader:
    tools = format_of(kind, tokens) if kind else None
    if tools is not None and tools.style is Style.HARMONY:
        return HarmonyReader(tools, offered)
    thinking = think_tags("", {"<think>": 1, "</think>": 2}.get) if tokens else THINK
    return AnswerReader(thinking=thinking, is_thinking=is_thinking, tools=tools, offered=offered)


def check_parts(pieces: list[Piece]) -> None:
    """What was passed on of a call is how it begins, and nothing else comes inside it."""
    steps = CallSteps()
    for piece in pieces:
        assert not (steps.is_open and (piece.text or piece.thinking)), pieces
        calls = () if piece.call is None else (piece.call,)
        parts = () if piece.part is None else (piece.part,)
        steps.around(Chunk(piece.text, tool_calls=calls, call_parts=parts))


def outcome(pieces: list[Piece], is_cut: bool) -> Outcome:
    check_parts(pieces)
    calls = [piece.call for piece in pieces if piece.call is not None]
    assert all(re.fullmatch("[A-Za-z0-9]{9}", call.id) for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    return Outcome(
        "".join(piece.text for piece in pieces),
        "".join(piece.thinking for piece in pieces),
        [(call.name, json.loads(call.arguments)) for call in calls],
        is_cut,
    )


def read(
    answer: str,
    kind: str | None,
    *,
    is_thinking: bool = False,
    offered: Sequence[Tool] = OFFERED,
) -> Outcome:
    """The outcome, the same however the answer is cut, and with tags that are tokens."""
    found: list[Outcome] = []
    for size in (len(answer) or 1, 1, 3):
        reader = reader_of(kind, is_thinking=is_thinking, offered=offered)
        pieces: list[Piece] = []
        for at in range(0, len(answer), size):
            pieces += reader.push(answer[at : at + size])
        last, is_cut = reader.finish()
        found.append(outcome([*pieces, *last], is_cut))
    found.append(with_tokens(answer, kind, is_thinking=is_thinking, offered=offered))
    assert all(each == found[0] for each in found[1:]), found
    return found[0]


def with_tokens(
    answer: str, kind: str | None, *, is_thinking: bool, offered: Sequence[Tool] = OFFERED
) -> Outcome:
    reader = reader_of(kind, is_thinking=is_thinking, tokens=True, offered=offered)
    tags: dict[str, Tag] = {tag.text: tag for tag in reader.tags.values()}
    pieces: list[Piece] = []
    parts = re.split("(" + "|".join(map(re.escape, tags)) + ")", answer)
    for part in parts:
        pieces += reader.mark(tags[part]) if part in tags else reader.push(part)
    last, is_cut = reader.finish()
    return outcome([*pieces, *last], is_cut)


def call(arguments: str, name: str = "look") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


SHELL = "mkdir -p test/{test1,test2"
QUOTED = r'{"city": "say \"}\" and </b> \\"}'
CASES: dict[str, tuple[str, str, Outcome]] = {
    "one call": (CALL, "hermes", Outcome("", "", [KOELN], False)),
    "text before the call keeps its order, without white space at the edge": (
        f"I will look.\n\n{CALL}",
        "hermes",
        Outcome("I will look.", "", [KOELN], False),
    ),
    "two calls": (f"{CALL}\n{CALL}", "hermes", Outcome("", "", [KOELN, KOELN], False)),
    # ai-dynamo/dynamo#2915
    "no line feeds around the object": (
        CALL.replace("\n", ""),
        "hermes",
        Outcome("", "", [KOELN], False),
    ),
    # vllm-project/vllm#21544
    "an unbalanced brace in an argument": (
        call(json.dumps({"city": SHELL})),
        "hermes",
        Outcome("", "", [("look", {"city": SHELL})], False),
    ),
    "quotes, backslashes and braces in an argument": (
        call(QUOTED),
        "hermes",
        Outcome("", "", [("look", json.loads(QUOTED))], False),
    ),
    # vllm-project/vllm#10395
    "an argument that equals the name": (
        call('{"name": "look", "look": "arguments"}'),
        "hermes",
        Outcome("", "", [("look", {"name": "look", "look": "arguments"})], False),
    ),
    # vllm-project/vllm#28806, #11392
    "no arguments": (call("{}"), "hermes", Outcome("", "", [("look", {})], False)),
    "null for arguments": (call("null"), "hermes", Outcome("", "", [("look", {})], False)),
    "arguments left out": (
        '<tool_call>{"name": "look"}</tool_call>',
        "hermes",
        Outcome("", "", [("look", {})], False),
    ),
    "arguments as a text in JSON": (
        call(json.dumps('{"city": "Rom"}')),
        "hermes",
        Outcome("", "", [("look", {"city": "Rom"})], False),
    ),
    "a line feed in a string that JSON would escape": (
        call('{"city": "a\nb"}'),
        "hermes",
        Outcome("", "", [("look", {"city": "a\nb"})], False),
    ),
    "characters beyond the first plane, and half a pair": (
        call(r'{"city": "😀\ud83d"}'),
        "hermes",
        Outcome("", "", [("look", {"city": "😀\ud83d"})], False),
    ),
    # strands-agents/harness-sdk#4309: never a call with half of its arguments
    "cut in the arguments": (
        f'{CALL}<tool_call>{{"name": "run_shell", "arguments": {{"city": "K',
        "hermes",
        Outcome("", "", [KOELN], True),
    ),
    "cut after the tag": ("go <tool_call>", "hermes", Outcome("go", "", [], True)),
    "closing tag missing at the end": (
        CALL.removesuffix("</tool_call>"),
        "hermes",
        Outcome("", "", [KOELN], False),
    ),
    "text after the call": (f"{CALL}\nDone.", "hermes", Outcome("\nDone.", "", [KOELN], False)),
    # ollama/ollama#17274: what is no call is not lost
    "an unknown tool stays text": (
        call("{}", "other"),
        "hermes",
        Outcome(call("{}", "other"), "", [], False),
    ),
    "damaged JSON stays text": (
        "<tool_call>{look: Köln}</tool_call> x",
        "hermes",
        Outcome("<tool_call>{look: Köln}</tool_call> x", "", [], False),
    ),
    "no object stays text": (
        "write <tool_call>your call</tool_call>",
        "hermes",
        Outcome("write <tool_call>your call</tool_call>", "", [], False),
    ),
    "a tag that is none": ("a <tool_box> b", "hermes", Outcome("a <tool_box> b", "", [], False)),
    "a call in the reasoning is none": (
        f"<think>maybe {CALL}?</think>\n\nNo.",
        "hermes",
        Outcome("No.", f"maybe {CALL}?", [], False),
    ),
    "reasoning, then a call": (
        f"<think>\nhm\n</think>\n\n{CALL}",
        "hermes",
        Outcome("", "\nhm\n", [KOELN], False),
    ),
    "Llama: the whole answer is a call": (
        '{"name": "look", "parameters": {"city": "Köln"}}',
        "llama",
        Outcome("", "", [KOELN], False),
    ),
    # meta-llama: with a type in front
    "Llama: with a type": (
        '{"type": "function", "name": "look", "parameters": {"city": "Köln"}}',
        "llama",
        Outcome("", "", [KOELN], False),
    ),
    "Llama: after its tag": (
        '<|python_tag|>{"name": "look", "parameters": {"city": "Köln"}}',
        "llama",
        Outcome("", "", [KOELN], False),
    ),
    "Llama: several": (
        '{"name": "look", "parameters": {}}; {"name": "run_shell", "parameters": {"a": 1}}',
        "llama",
        Outcome("", "", [("look", {}), ("run_shell", {"a": 1})], False),
    ),
    "Llama: an answer in JSON is no call": (
        '{"name": "look", "age": 3}',
        "llama",
        Outcome('{"name": "look", "age": 3}', "", [], False),
    ),
    "Llama: cut before it is clear": ('{"na', "llama", Outcome('{"na', "", [], False)),
    "Llama: code after the tag is not lost": (
        "<|python_tag|>print(1)",
        "llama",
        Outcome("<|python_tag|>print(1)", "", [], False),
    ),
    # mistralai/mistral-inference#162
    "Mistral: a list": (
        '[TOOL_CALLS] [{"name": "look", "arguments": {"city": "Köln"}}, '
        '{"name": "run_shell", "arguments": {}}]',
        "list",
        Outcome("", "", [KOELN, ("run_shell", {})], False),
    ),
    "Mistral: the name outside": (
        'Let me. [TOOL_CALLS]look[ARGS]{"city": "Köln"}[TOOL_CALLS]run_shell[ARGS]{"a": [{}]}',
        "args",
        Outcome("Let me.", "", [KOELN, ("run_shell", {"a": [{}]})], False),
    ),
    "Mistral: with an id": (
        '[TOOL_CALLS]look[CALL_ID]abcdefghi[ARGS]{"city": "Köln"}',
        "args",
        Outcome("", "", [KOELN], False),
    ),
    "Mistral: no object after white space": (
        "[TOOL_CALLS]look[ARGS] \n no",
        "args",
        Outcome("[TOOL_CALLS]look[ARGS] \n no", "", [], False),
    ),
    "Mistral: cut in the name": ("[TOOL_CALLS]loo", "args", Outcome("", "", [], True)),
}


@pytest.mark.parametrize(("answer", "kind", "right"), CASES.values(), ids=CASES.keys())
def test_calls_are_read_however_the_answer_is_cut(answer: str, kind: str, right: Outcome) -> None:
    assert read(answer, kind) == right


THOUGHTS: dict[str, tuple[str, bool, Outcome]] = {
    "opened by the model": ("<think>a b</think>\n\nc", False, Outcome("c", "a b", [], False)),
    "opened by the prompt": ("a b</think>c", True, Outcome("c", "a b", [], False)),
    # sgl-project/sglang#4711
    "never begun": ("just text", False, Outcome("just text", "", [], False)),
    "never closed": ("a b", True, Outcome("", "a b", [], False)),
    "half a closing tag": ("a </thi", True, Outcome("", "a </thi", [], False)),
    "closed again where the prompt did": ("</think>\nc", True, Outcome("c", "", [], False)),
    "a tag in the text": ("see <think>", False, Outcome("see <think>", "", [], False)),
    "white space before": (" \n<think>a</think>b", False, Outcome("b", "a", [], False)),
    "less-than signs": ("<b> 1 < 2", False, Outcome("<b> 1 < 2", "", [], False)),
}


@pytest.mark.parametrize(("answer", "is_open", "right"), THOUGHTS.values(), ids=THOUGHTS.keys())
def test_reasoning_is_told_from_the_answer(answer: str, is_open: bool, right: Outcome) -> None:
    assert read(answer, None, is_thinking=is_open) == right


FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]"),
    *("[ARGS]", "[CALL_ID]", '{"name": "look", "arguments": {}}', '{"name": "look", "parameters":'),
    *("<function=look>", "</function>", "<parameter=a>", "</parameter>", "<|message|>", "<|end|>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|channel|>", "<|start|>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁calls▁end｜>"),
    *(
        "<｜tool▁call▁end｜>",
        "analysis",
        "final",
        " to=functions.look",
        "```",
        "<function=",
        "<tool",
    ),
    *("look", '"', "\\", "{", "}", "[", "]", ",", ";", " ", "\n", "<", "a", "é"),
]


@pytest.mark.parametrize("kind", [None, *TEMPLATES])
@settings(max_examples=examples(100), deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=12), is_thinking=st.booleans())
def test_nothing_that_a_model_writes_is_lost(
    kind: str | None, parts: list[str], is_thinking: bool
) -> None:
    """However it is cut, an answer of any fragments gives the same; without a call it is whole."""
    answer = "".join(parts)
    found: list[Outcome] = []
    for size in (len(answer) or 1, 1):
        reader = reader_of(kind, is_thinking=is_thinking)
        pieces = [
            piece
            for at in range(0, len(answer), size)
            for piece in reader.push(answer[at : at + size])
        ]
        last, is_cut = reader.finish()
        found.append(outcome([*pieces, *last], is_cut))
    assert found[0] == found[1]
    for each in (found[0], with_tokens(answer, kind, is_thinking=is_thinking)):
        # Harmony has text in messages only; what is in their headers is left out.
        if not each.calls and not each.is_cut and kind != "harmony":
            kept = re.sub(r"\s|</?think>", "", each.thinking + each.text)
            assert kept == re.sub(r"\s|</?think>", "", answer)
