"""Calls of tools are valid by their schemas, from any weights and in every format."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from aitorrent_shards.answering.output import Output
from aitorrent_shards.chats.formats import Style, ToolFormat, tool_format
from aitorrent_shards.chats.grammars import CallRules
from aitorrent_shards.chats.harmony import HarmonyReader
from aitorrent_shards.chats.pieces import Reader
from aitorrent_shards.chats.reading import AnswerReader
from aitorrent_shards.models.detokenizer import Detokenizer
from aitorrent_shards.models.grammar import Grammar, GrammarCompiler, allows
from aitorrentd.api import InvalidParams
from aitorrentd.api.models.tools import Tool, ToolCall
from tests.support.effort import examples
from tests.unit.shards.chats.test_reading import TEMPLATES

END = 257
TAGS = (
    *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|channel|>", "<|message|>"),
    *("<|start|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>", "<｜tool▁calls▁begin｜>"),
    *("<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
)
AGE = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["age"],
    "additionalProperties": False,
}
LOOK = Tool(name="look", parameters=AGE)
STOP = Tool(name="stop", description="no arguments")


@cache
def tokenizer(has_tags: bool) -> Tokenizer:
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=vocab | {"<s>": 256, "</s>": END}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    if has_tags:
        made.add_special_tokens(list(TAGS[2:]))
        made.add_tokens([AddedToken(tag, special=False) for tag in TAGS[:2]])
    return made


@cache
def compiler(has_tags: bool) -> GrammarCompiler:
    made = tokenizer(has_tags)
    return GrammarCompiler(made.to_str, made.get_vocab_size(), [END], model="toy")


def format_of(kind: str, has_tags: bool) -> ToolFormat:
    made = tokenizer(has_tags)
    found = tool_format(TEMPLATES[kind], lambda text: made.token_to_id(text) if has_tags else None)
    assert found is not None
    return found


def rules(kind: str, has_tags: bool, *tools: Tool, **settings: bool) -> CallRules:
    usual = {"is_required": True, "is_parallel": False}
    return CallRules(format_of(kind, has_tags), tools or (LOOK, STOP), **(usual | settings))


def ids(text: str, has_tags: bool = True) -> list[int]:
    found: list[int] = tokenizer(has_tags).encode(text, add_special_tokens=False).ids
    return found


def answer_by_chance(grammar: Grammar, seed: int, limit: int = 600) -> list[int]:
    """Tokens of a model that knows nothing."""
    draw = random.Random(seed)
    found: list[int] = []
    while len(found) < limit:
        mask = grammar.mask()
        token = draw.choice([t for t in range(len(mask) * 8) if allows(mask, t)])
        if token == END:
            break
        found.append(token)
        if grammar.commit(token):
            break
    return found


def reader_in(tools: ToolFormat, offered: Sequence[Tool]) -> Reader:
    if tools.style is Style.HARMONY:
        return HarmonyReader(tools, offered)
    return AnswerReader(tools=tools, offered=offered)


def calls_in(
    tokens: list[int], kind: str, has_tags: bool, offered: Sequence[Tool] = ()
) -> tuple[str, list[ToolCall]]:
    reader = reader_in(format_of(kind, has_tags), offered or (LOOK, STOP))
    output = Output(Detokenizer(tokenizer(has_tags)), (), reader)
    pieces = [piece for token in tokens for piece in output.push(token)] + output.finish()
    calls = [piece.call for piece in pieces if piece.call is not None]
    return "".join(piece.text for piece in pieces), calls


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (
            "<|channel|>analysis<|message|>Hm?<|end|><|start|>assistant<|channel|>final<|message|>4",
            5,
        ),
        ("<|channel|>final<|message|>Hm?<|return|>", 0),
    ],
)
def test_tokens_of_reasoning_count_with_the_tags_around_them(answer: str, count: int) -> None:
    output = Output(Detokenizer(tokenizer(True)), (), reader_in(format_of("harmony", True), ()))
    for token in ids(answer):
        output.push(token)
    assert output.reasoning_tokens == count


def check(call: ToolCall) -> None:
    arguments = json.loads(call.arguments)
    if call.name == "look":
        assert list(arguments) == ["age"]
        assert 10 <= arguments["age"] <= 99
    else:
        assert (call.name, arguments) == ("stop", {})


@pytest.mark.parametrize("has_tags", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_required_call_is_valid_from_any_weights(kind: str, has_tags: bool) -> None:
    seen = set()
    for seed in range(examples(50)):
        grammar = compiler(has_tags).compile_calls(rules(kind, has_tags))
        text, calls = calls_in(answer_by_chance(grammar, seed), kind, has_tags)
        assert text.strip() == ""
        assert len(calls) == 1
        check(calls[0])
        seen.add(calls[0].name)
    assert seen == {"look", "stop"}


def test_grammar_that_is_kept_begins_anew() -> None:
    known = tokenizer(True)
    made = GrammarCompiler(known.to_str, known.get_vocab_size(), [END], model="toy")
    asked = rules("hermes", True)
    first, second = made.compile_calls(asked), made.compile_calls(asked)
    assert len(made._kept) == 1
    assert walk(first, '<tool_call>{"name": "stop", ') is None
    for grammar in (second, made.compile_calls(asked)):
        assert walk(grammar, '<tool_call>{"name": "look", "arguments": {"age": 10}}') is None
    for seed in range(9):
        made.compile_calls(rules("hermes", True, Tool(name=f"tool{seed}")))
    assert len(made._kept) == 4


def test_mistral_may_give_its_call_an_id() -> None:
    grammar = compiler(True).compile_calls(rules("args", True))
    text = '[TOOL_CALLS]look[CALL_ID]abcDEF123[ARGS]{"age":42}'
    assert walk(grammar, text) is None
    (call,) = calls_in(ids(text), "args", True)[1]
    check(call)


@pytest.mark.parametrize("kind", [k for k in TEMPLATES if k != "harmony"])
def test_several_calls_are_valid_too(kind: str) -> None:
    most = 0
    for seed in range(8):
        grammar = compiler(True).compile_calls(rules(kind, True, is_parallel=True))
        text, calls = calls_in(answer_by_chance(grammar, seed, 150), kind, True)
        for call in calls:
            check(call)
        assert text.strip() == ""
        most = max(most, len(calls))
    assert most > 1


def walk(grammar: Grammar, text: str, has_tags: bool = True) -> str | None:
    """The first token of a text that the grammar refuses."""
    for token in ids(text, has_tags):
        if not grammar.takes(token):
            return str(tokenizer(has_tags).id_to_token(token))
        grammar.commit(token)
    return None


def test_model_is_free_until_it_begins_a_call() -> None:
    auto = rules("hermes", True, is_required=False, is_parallel=True)
    grammar = compiler(True).compile_calls(auto)
    assert not grammar.is_binding
    assert walk(grammar, 'Hi. {"name": "x"} <tool') is None
    assert not grammar.is_binding
    assert grammar.takes(END)
    assert walk(grammar, '<tool_call>\n{"name": "') is None
    assert grammar.is_binding
    assert not grammar.takes(END)
    assert walk(grammar, "other") == "o"
    assert walk(grammar, 'look", "arguments": {"age": 42}}\n</tool_call>') is None
    assert not grammar.is_binding
    assert grammar.takes(END)
    assert walk(grammar, "\n<tool_call>") is None
    assert grammar.is_binding


@pytest.mark.parametrize("kind", [k for k in TEMPLATES if k not in ("llama", "harmony")])
def test_tag_that_is_text_begins_a_call_too(kind: str) -> None:
    auto = rules(kind, False, is_required=False)
    opening = format_of(kind, False).open.text
    grammar = compiler(False).compile_calls(auto)
    assert walk(grammar, f"Hi {opening[:-1]}", has_tags=False) is None
    assert not grammar.is_binding
    assert walk(grammar, f" {opening}", has_tags=False) is None
    assert grammar.is_binding
    assert not grammar.takes(END)
    _, calls = calls_in(ids(opening, False) + answer_by_chance(grammar, 1), kind, False)
    assert len(calls) == 1
    check(calls[0])


def test_llama_may_answer_in_json_that_is_no_call() -> None:
    auto = rules("llama", True, is_required=False)
    free = compiler(True).compile_calls(auto)
    assert walk(free, '{"name": "look", "age": 3}') is None
    assert not free.is_binding
    bound = compiler(True).compile_calls(auto)
    assert walk(bound, '{"name": "look", "parameters": ') is None
    assert bound.is_binding
    assert walk(bound, '{"age": "') == '"'
    tagged = compiler(True).compile_calls(auto)
    assert walk(tagged, 'So: <|python_tag|>{"name": "stop", "parameters": {}}') is None


def test_answer_with_a_schema_is_that_or_a_call() -> None:
    form = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    auto = rules("hermes", True, is_required=False)
    for text in ('{"ok":true}', '<tool_call>{"name": "stop", "arguments": {}}</tool_call>'):
        grammar = compiler(True).compile_calls(auto, form)
        assert grammar.is_binding
        assert walk(grammar, text) is None
        assert grammar.takes(END)
    assert walk(compiler(True).compile_calls(auto, form), "no") == "n"


UNIQUE = {"type": "array", "uniqueItems": True}
ODD: dict[str, Any] = {"type": "object", "properties": {"a": UNIQUE}}


def test_schema_that_cannot_be_applied_is_refused_only_where_it_must_hold() -> None:
    odd = Tool(name="odd", parameters=ODD)
    wrong = Tool(name="wrong", parameters={"type": "object", "properties": {"a": {"type": "?"}}})
    auto = rules("hermes", True, odd, wrong, LOOK, is_required=False)
    grammar = compiler(True).compile_calls(auto)
    whole = '<tool_call>{"name": "wrong", "arguments": {"b": 1}}</tool_call>'
    assert walk(grammar, whole) is None
    with pytest.raises(InvalidParams, match="^parameters of the tool odd: .*uniqueItems"):
        compiler(True).compile_calls(rules("hermes", True, odd))
    strict = Tool(name="odd", parameters=ODD, strict=True)
    with pytest.raises(InvalidParams, match="^parameters of the tool odd: .*uniqueItems"):
        compiler(True).compile_calls(rules("hermes", True, strict, is_required=False))
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(80):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(InvalidParams, match="^parameters of the tool deep: .*nested more than 64"):
        compiler(True).compile_calls(rules("hermes", True, Tool(name="deep", parameters=deep)))


TYPED = Tool(
    name="typed",
    parameters={
        "type": "object",
        "properties": {
            "unit": {"enum": ["c", "f"]},
            "note": {"type": "string", "minLength": 1, "maxLength": 3},
            "deep": {"$ref": "#/$defs/deep"},
            "size": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}]},
        },
        "required": ["unit", "note", "deep", "size"],
        "$defs": {"deep": {"type": "object", "properties": {}, "additionalProperties": False}},
    },
)


@pytest.mark.parametrize("has_tags", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("kind", ["coder", "glm", "invoke"])
def test_parameters_in_tags_have_the_types_of_the_schema(kind: str, has_tags: bool) -> None:
    seen = set()
    for seed in range(8):
        grammar = compiler(has_tags).compile_calls(rules(kind, has_tags, TYPED))
        text, (call,) = calls_in(answer_by_chance(grammar, seed), kind, has_tags, [TYPED])
        found = json.loads(call.arguments)
        assert text == ""
        assert found["unit"] in ("c", "f")
        assert 1 <= len(found["note"]) <= 3
        assert found["deep"] == {}
        assert found["size"] is None or 1 <= found["size"] <= 9
        seen.add((found["unit"], found["note"]))
    assert len(seen) > 1


def test_tool_of_any_arguments_takes_them_in_tags_too() -> None:
    loose = Tool(name="loose", parameters={"type": "object"})
    grammar = compiler(True).compile_calls(rules("coder", True, loose))
    text = "<tool_call><function=loose><parameter=a>\nx\n</parameter></function></tool_call>"
    assert walk(grammar, text) is None
    assert json.loads(calls_in(ids(text), "coder", True, [loose])[1][0].arguments) == {"a": "x"}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "x"}}}, "pattern of a text"),
        ({"properties": {"a>": {}}}, "a parameter named 'a>'"),
        ({"properties": {"a": {}}, "minProperties": 1}, "minProperties beside the parameters"),
    ],
)
def test_what_parameters_in_tags_cannot_enforce_is_refused_where_it_must_hold(
    schema: dict[str, Any], why: str
) -> None:
    tool = Tool(name="odd", parameters={"type": "object", **schema})
    with pytest.raises(InvalidParams, match=f"^parameters of the tool odd: .*{why} cannot be"):
        compiler(True).compile_calls(rules("coder", True, tool))
    compiler(True).compile_calls(rules("coder", True, tool, is_required=False))


def test_harmony_is_free_until_a_header_names_a_tool() -> None:
    auto = rules("harmony", True, is_required=False)
    for head in (
        "<|channel|>commentary to=functions.",
        "<|channel|>analysis to=functions.",
        "<|start|>assistant to=functions.",
    ):
        grammar = compiler(True).compile_calls(auto)
        assert walk(grammar, "<|channel|>analysis<|message|>hm<|end|><|start|>assistant") is None
        assert not grammar.is_binding
        assert walk(grammar, head) is None
        assert grammar.is_binding
        assert walk(grammar, "other") == "o"
        assert walk(grammar, 'look <|constrain|>json<|message|>{"age": 42}') is None
        assert not grammar.is_binding
        assert grammar.takes(END)


def test_harmony_answers_in_json_on_its_channel_after_reasoning_if_wanted() -> None:
    form = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    thoughts = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    answer = '<|channel|>final<|message|>{"ok":true}'
    call = "<|channel|>commentary to=functions.stop <|constrain|>json<|message|>{}"
    found = format_of("harmony", True)
    for thinks in (False, True):
        only = CallRules(found, (), is_required=False, is_parallel=False, may_think=thinks)
        either = CallRules(found, (STOP,), is_required=False, is_parallel=False, may_think=thinks)
        for asked, text in ((only, answer), (either, answer), (either, call)):
            grammar = compiler(True).compile_calls(asked, form)
            assert (walk(grammar, thoughts) is None) == thinks
            grammar = compiler(True).compile_calls(asked, form)
            assert walk(grammar, thoughts * thinks + text) is None
            assert grammar.takes(END)
