"""Tools and reasoning over a split model: what the model is shown, and what callers get."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.chats.formats import Style, Tag, ThinkTags, ToolFormat
from aitorrent_shards.chats.messages import template_messages
from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrentd.api import Chunk, GenerateRequest, InvalidParams, StageLost
from aitorrentd.api.models.tools import ToolCall
from tests.support.shards.shards_fakes import EOS, FakeNode, toy_network, write_toy_model
from tests.unit.shards.chats.test_chat_formats import CALLS, HEAD, TAIL
from tests.unit.shards.chats.test_chat_formats import TEMPLATES as CALL_TEMPLATES

pytestmark = pytest.mark.jump_clock

TEMPLATE = """{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor -%}
{%- for m in messages %}[{{ m.role }}{{ ' ' + m.name if m.name }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor -%}
{% endfor -%}[assistant]{{ '<think>' if enable_thinking is defined and enable_thinking }}"""
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
UNKNOWN = "{% for t in tools or [] %}<|call|>{{ t }}{% endfor %}{{ messages[0].content }}"
AGE = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["age"],
    "additionalProperties": False,
}
LOOK = {"name": "look", "parameters": AGE}
STOP = {"name": "stop"}
PAIRS = ["none", "0-3", "3-6", "0-3", "3-6"]


def model(folder: Path, template: str = TEMPLATE) -> Path:
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "chat_template.jinja").write_text(template)
    return folder


def asked(*more: dict[str, Any], **fields: Any) -> GenerateRequest:
    usual: dict[str, Any] = {
        "model": "toy",
        "messages": [{"role": "user", "content": "hi"}, *more],
        "tools": [LOOK, STOP],
        "params": {"max_tokens": 100, "temperature": 1.0, "seed": 1},
    }
    params = usual["params"] | fields.pop("params", {})
    return GenerateRequest.model_validate(usual | fields | {"params": params})


async def answer(node: FakeNode, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in node.shards.backend.generate(request)]


def calls_in(chunks: list[Chunk]) -> list[ToolCall]:
    return [call for chunk in chunks for call in chunk.tool_calls]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def check(call: ToolCall, name: str = "") -> None:
    arguments = json.loads(call.arguments)
    assert call.name == name or not name
    if call.name == "look":
        assert 10 <= arguments["age"] <= 99
        assert len(arguments) == 1
    else:
        assert (call.name, arguments) == ("stop", {})


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(50), marks=pytest.mark.slow)])
async def test_required_call_is_valid_whatever_the_weights_are(
    tmp_path: Path, seeds: range
) -> None:
    async with toy_network(model(tmp_path), "all") as nodes:
        for seed in seeds:
            request = asked(
                tool_choice="required", parallel_tool_calls=False, params={"seed": seed}
            )
            found = await answer(nodes[0], request)
            assert found[-1].reason == "tool_calls"
            assert text_of(found) == ""
            (call,) = calls_in(found)
            check(call)
        named = asked(tool_choice={"name": "look"}, parallel_tool_calls=False)
        (call,) = calls_in(await answer(nodes[0], named))
        check(call, "look")
        # Stop texts are for the text of an answer.
        cut = asked(tool_choice={"name": "look"}, params={"stop": ["age", "</tool"]})
        check(calls_in(await answer(nodes[0], cut))[0], "look")


@pytest.mark.parametrize("kind", ["Qwen3-Coder", "GLM", "DeepSeek V3", "DeepSeek V3.1", "gpt-oss"])
async def test_required_call_is_valid_in_other_formats(tmp_path: Path, kind: str) -> None:
    head = HEAD.replace("t | tojson", "t.function.name")  # the context of the toy is short
    template = f"{head}{CALLS}{CALL_TEMPLATES[kind][1]}{TAIL}"
    async with toy_network(model(tmp_path, template), "all") as nodes:
        for seed in range(2):
            one = {"tool_choice": "required", "parallel_tool_calls": False}
            found = await answer(nodes[0], asked(params={"seed": seed, "max_tokens": 400}, **one))
            assert (found[-1].reason, text_of(found)) == ("tool_calls", "")
            (call,) = calls_in(found)
            check(call)
            assert "".join(chunk.thinking for chunk in found) == ""
        if kind == "gpt-oss":  # whose answers in JSON are on a channel of their own
            found = await answer(nodes[0], asked(tools=[], params={"format": AGE}))
            assert 10 <= json.loads(text_of(found))["age"] <= 99


async def test_call_is_the_same_after_a_loss(tmp_path: Path) -> None:
    answers = []
    for number, step in enumerate((None, 9)):
        async with toy_network(model(tmp_path / str(number)), *PAIRS) as nodes:
            victim = min(nodes[2], nodes[4], key=lambda n: n.id)
            victim.workers[-1].kill_at_step = step
            request = asked(tool_choice={"name": "look"}, parallel_tool_calls=False)
            found = await answer(nodes[0], request)
            assert any(isinstance(e, StageLost) for e in nodes[0].events) == (step is not None)
        (call,) = calls_in(found)
        check(call, "look")
        answers.append((call.arguments, found[-1].context))
    assert answers[0] == answers[1]


async def test_answer_cut_inside_a_call_says_so(tmp_path: Path) -> None:
    async with toy_network(model(tmp_path), "all") as nodes:
        found = await answer(nodes[0], asked(tool_choice="required", params={"max_tokens": 20}))
    assert (found[-1].reason, calls_in(found), text_of(found)) == ("length", [], "")
    assert found[-1].warning == (
        "the answer ended inside a call of a tool, which is not complete; raise max_tokens"
    )


async def test_answer_without_a_limit_may_fill_the_context(tmp_path: Path) -> None:
    async with toy_network(model(tmp_path), "all") as nodes:
        for tools in ([STOP], []):
            found = await answer(nodes[0], asked(tools=tools, params={"max_tokens": None}))
            assert found[-1].prompt_tokens + found[-1].completion_tokens == 512


async def test_model_that_may_call_is_free_to_write_text(tmp_path: Path) -> None:
    async with toy_network(model(tmp_path), "all") as nodes:
        params = {"max_tokens": 30}
        free = await answer(nodes[0], asked(params=params))
        without = await answer(nodes[0], asked(tool_choice="none", params=params))
        assert text_of(free)
        assert text_of(without)
        assert free[-1].prompt_tokens > without[-1].prompt_tokens
        assert await nodes[0].shards.backend.count_tokens(asked()) == free[-1].prompt_tokens


async def test_started_call_is_bound_to_the_tools(tmp_path: Path) -> None:
    """The model itself begins the call, with a token that a bias makes the likeliest."""
    async with toy_network(model(tmp_path), "all") as nodes:
        known = nodes[0].shards.backend._models["toy"].tokenizer
        assert known is not None
        known.tools = ToolFormat(Style.HERMES, Tag("<s>", 256), close=Tag("</tool_call>"))
        params = {"logit_bias": {256: 100.0}}
        for seed in range(3):
            request = asked(parallel_tool_calls=False, params=params | {"seed": seed})
            found = await answer(nodes[0], request)
            assert (found[-1].reason, text_of(found)) == ("tool_calls", "")
            (call,) = calls_in(found)
            check(call)
        # With free choice between them, a required JSON answer or a call.
        form = {"type": "object", "properties": {}, "additionalProperties": False}
        found = await answer(nodes[0], asked(params={"format": form, "logit_bias": {256: -100.0}}))
        assert (found[-1].reason, json.loads(text_of(found))) == ("stop", {})


async def test_reasoning_is_kept_apart_and_turned_on_and_off(tmp_path: Path) -> None:
    async with toy_network(model(tmp_path), "all") as nodes:
        params = {"max_tokens": 20, "logprobs": True}
        thinks = await answer(nodes[0], asked(tools=[], params=params | {"think": True}))
        assert text_of(thinks) == ""
        assert "".join(chunk.thinking for chunk in thinks)
        assert [score for chunk in thinks for score in chunk.logprobs] == []
        ended = thinks[-1].reason == "stop"  # by a token that belongs to nothing
        assert thinks[-1].extra["reasoning_tokens"] == thinks[-1].completion_tokens - ended
        plain = await answer(nodes[0], asked(tools=[], params=params | {"think": False}))
        assert "".join(chunk.thinking for chunk in plain) == ""
        assert text_of(plain)
        assert "reasoning_tokens" not in plain[-1].extra
        assert len([score for chunk in plain for score in chunk.logprobs]) == 20
        raw = GenerateRequest.model_validate(
            {"model": "toy", "prompt": "x", "raw": True, "params": {"think": True}}
        )
        with pytest.raises(InvalidParams, match="thinking: a raw prompt has no chat template"):
            await answer(nodes[0], raw)
        with pytest.raises(InvalidParams, match="levels of thinking: .* only turns it on or off"):
            await answer(nodes[0], asked(params={"think": "low"}))


async def test_grammar_counts_once_the_reasoning_is_closed(tmp_path: Path) -> None:
    """The prompt opens the reasoning, and a bias closes it at once."""
    async with toy_network(model(tmp_path), "all") as nodes:
        known = nodes[0].shards.backend._models["toy"].tokenizer
        assert known is not None
        known.thinking = ThinkTags(Tag("<think>"), Tag("<s>", 256))
        params = {"think": True, "logit_bias": {256: 100.0}}
        found = await answer(nodes[0], asked(tools=[], params=params | {"format": AGE}))
        assert found[-1].reason == "stop"
        assert 10 <= json.loads(text_of(found))["age"] <= 99
        found = await answer(nodes[0], asked(tool_choice={"name": "look"}, params=params))
        check(calls_in(found)[0], "look")
        open_ended = asked(tools=[], params={"think": True, "format": AGE, "max_tokens": 30})
        found = await answer(nodes[0], open_ended)
        assert (found[-1].reason, text_of(found)) == ("length", "")
        assert "".join(chunk.thinking for chunk in found)


async def test_reasoning_cannot_end_an_answer_that_a_grammar_demands(tmp_path: Path) -> None:
    """The model wants to end at once, before it has closed the reasoning."""
    async with toy_network(model(tmp_path), "all") as nodes:
        params = {"think": True, "logit_bias": {EOS: 100.0}, "max_tokens": 8}
        for fields in (
            {"tools": [], "params": params | {"format": AGE}},
            {"tool_choice": "required", "params": params},
        ):
            found = await answer(nodes[0], asked(**fields))
            assert (found[-1].reason, text_of(found)) == ("length", "")
            assert "".join(chunk.thinking for chunk in found)
        free = await answer(nodes[0], asked(params=params))
        assert (free[-1].reason, free[-1].completion_tokens) == ("stop", 1)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no tools in the template": (PLAIN, {}, "toy does not support tools: .* no place for"),
    "an unknown format": (UNKNOWN, {}, "shows their calls in a format that is not known"),
    "earlier calls": (
        PLAIN,
        {"tools": [], "calls": True},
        "toy does not support earlier calls of tools: its chat template has no place",
    ),
    "thinking": (
        PLAIN,
        {"tools": [], "params": {"think": True}},
        "toy does not support thinking: its chat template",
    ),
    "a bad schema": (
        TEMPLATE,
        {
            "tools": [{"name": "a", "parameters": {"type": "object", "minProperties": "x"}}],
            "tool_choice": "required",
        },
        "parameters of the tool a: the schema cannot be applied",
    ),
}


@pytest.mark.parametrize(("template", "fields", "why"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_the_model_cannot_do_is_refused_by_name(
    tmp_path: Path, template: str, fields: dict[str, Any], why: str
) -> None:
    more = []
    if fields.pop("calls", False):
        more = [{"role": "assistant", "tool_calls": [{"name": "look", "arguments": "{}"}]}]
    async with toy_network(model(tmp_path, template), "all") as nodes:
        with pytest.raises(InvalidParams, match=why):
            await answer(nodes[0], asked(*more, **fields))


@pytest.mark.parametrize(
    ("template", "lacks"),
    [
        (TEMPLATE, set()),
        (PLAIN, {"tools", "tool_choice", "parallel_tool_calls", "think"}),
        (UNKNOWN, {"tools", "tool_choice", "parallel_tool_calls", "think"}),
    ],
)
async def test_models_say_what_their_template_lacks(
    tmp_path: Path, template: str, lacks: set[str]
) -> None:
    async with toy_network(model(tmp_path, template), "all") as nodes:
        (view,) = await nodes[0].shards.backend.models()
        assert view.lacks == lacks


def shown(folder: Path, template: str, *turns: dict[str, Any], **rules: bool) -> str:
    """The rendered conversation of a model with this template."""
    write_toy_model(folder / "toy")
    (folder / "toy" / "chat_template.jinja").write_text(template)
    tokenizer = ModelTokenizer(read_model(folder / "toy"), model="toy")
    messages = asked(*turns, tools=[]).messages or ()
    ids = tokenizer.encode(None, template_messages(messages, **rules))
    return str(tokenizer._tokenizer.decode(list(ids), skip_special_tokens=False))


CALLED = {"role": "assistant", "tool_calls": [{"id": "call_1", "name": "look", "arguments": "{"}]}


def test_earlier_calls_and_results_are_shown_to_the_model(tmp_path: Path) -> None:
    call = {"id": "c", "name": "look", "arguments": '{"city": "Köln"}'}
    text = shown(
        tmp_path,
        TEMPLATE,
        {"role": "assistant", "content": "ok", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "18 °C"},
    )
    assert text == (
        '[user]hi[assistant]ok<tool_call>{"name": "look", "arguments": {"city": "Köln"}}'
        "</tool_call>[tool look]18 °C[assistant]"
    )


def test_damaged_arguments_of_an_earlier_call_are_shown_as_they_are(tmp_path: Path) -> None:
    assert '{"name": "look", "arguments": "{"}' in shown(tmp_path, TEMPLATE, CALLED)


def test_result_without_an_id_belongs_to_the_call_of_its_tool(tmp_path: Path) -> None:
    template = """{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.id }} {% endfor -%}
{{ m.name }}={{ m.tool_call_id }} {% endfor %}"""
    calls = [{"name": "look", "arguments": "{}"}, {"name": "stop", "arguments": "{}"}]
    results = [
        {"role": "tool", "tool_name": "stop", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    text = shown(tmp_path, template, {"role": "assistant", "tool_calls": calls}, *results)
    assert text == "= call-1-0 call-1-1 = stop=call-1-1 look=call-1-0 "


def test_calls_are_shown_one_by_one_to_models_that_make_one_at_a_time(tmp_path: Path) -> None:
    calls = [{"id": "b", "name": "look"}, {"id": "a", "name": "stop"}]
    turns = (
        {"role": "assistant", "content": "ok", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": "go"},
    )
    text = shown(tmp_path, TEMPLATE, *turns, one_call=True)
    assert re.sub(r'"arguments": {}|<.?tool_call>', "", text) == (
        '[user]hi[assistant]{"name": "stop", }[tool stop]1'
        '[assistant]ok{"name": "look", }[tool look]2[user]go[assistant]'
    )


def test_ids_fit_templates_that_take_short_ones_only(tmp_path: Path) -> None:
    template = """{% for m in messages %}{% for c in m.tool_calls or [] %}
{%- if c.id | length != 9 %}{{ raise_exception('length of 9') }}{% endif %}{{ c.id }}={% endfor -%}
{{ m.tool_call_id }}{% endfor %}"""
    result = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
    first, second = shown(tmp_path, template, CALLED, result, short_ids=True).split("=")
    assert first == second
    assert first.isalnum()
    with pytest.raises(InvalidParams, match="length of 9"):
        shown(tmp_path, template, CALLED)
