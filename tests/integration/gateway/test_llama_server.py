"""The same requests to llama.cpp's server and to the node: the same status, keys and types."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncGenerator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from aitorrentd.api import Chunk, GenerateRequest, InvalidParams
from aitorrentd.api.models.inference import DoneReason
from aitorrentd.api.models.logprobs import TokenLogprob
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.llama_server import llama_server
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.nodes import NodeFactory

HELLO: Final = [{"role": "user", "content": "hi"}]
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES: Final = "/v1/messages"
COUNT: Final = f"{MESSAGES}/count_tokens"
FUNCTION: Final[dict[str, Any]] = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
TOOLS: Final = [{"type": "function", "function": FUNCTION}]
SCHEMA: Final = {"name": "n", "schema": {"type": "boolean"}}
USAGE: Final = {"stream": True, "stream_options": {"include_usage": True}}


A: Final = {"logit_bias": {"97": 100}, "max_tokens": 3}
"The token `a`, three times: which keys an answer has must not depend on chance."


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": HELLO, **A, **fields}


def text(**fields: Any) -> tuple[str, dict[str, Any]]:
    return TEXT, {"prompt": "hi", **A, **fields}


def response(**fields: Any) -> tuple[str, dict[str, Any]]:
    return RESPONSES, {"input": "hi", **A, "max_tokens": None, "max_output_tokens": 3, **fields}


def message(**fields: Any) -> tuple[str, dict[str, Any]]:
    """There llama.cpp reads no bias, and drops `message_start` if a stream's first token is a part
    of a character: its likeliest token is always the same, and a whole one."""
    return MESSAGES, {"messages": HELLO, "max_tokens": 3, "top_k": 1, **fields}


CALL: Final = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED: Final = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
RESULT: Final = {"role": "tool", "tool_call_id": "c", "content": "r"}
USED: Final = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
USES: Final = [*HELLO, {"role": "assistant", "content": [USED]}]
GAVE: Final = {"type": "tool_result", "tool_use_id": "c", "content": "r"}
OF_ANTHROPIC: Final = [{"name": "f", "input_schema": FUNCTION["parameters"]}]
CALL_ITEM: Final = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
GAVE_ITEM: Final = {"type": "function_call_output", "call_id": "c", "output": "r"}
FAR: Final = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}
PARTS: Final = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
CASES: Final[dict[str, tuple[str, dict[str, Any] | bytes]]] = {
    "chat": chat(),
    "chat: stream": chat(stream=True),
    "chat: usage": chat(**USAGE),
    "chat: logprobs": chat(logprobs=True, top_logprobs=2),
    "chat: logprobs, stream": chat(logprobs=True, top_logprobs=2, stream=True),
    "chat: n": chat(n=2),
    "chat: n, stream": chat(n=2, stream=True),
    "chat: sampling": chat(temperature=0.5, top_p=0.9, seed=1, stop=["x"], presence_penalty=1),
    "chat: bias": chat(logit_bias={"5": -100, "97": 100}),
    "chat: completion tokens": chat(max_completion_tokens=2),
    "chat: parts": chat(messages=[{"role": "user", "content": PARTS}]),
    "chat: developer": chat(messages=[{"role": "developer", "content": "a"}, *HELLO]),
    "chat: object": chat(response_format={"type": "json_object"}, logit_bias={}, top_k=1),
    "chat: schema": chat(
        response_format={"type": "json_schema", "json_schema": SCHEMA}, logit_bias={}
    ),
    "chat: tools": chat(tools=TOOLS, tool_choice="required"),
    "chat: tools, stream": chat(tools=TOOLS, tool_choice="required", stream=True),
    "chat: nulls": chat(temperature=None, tools=None, stop=None),
    "chat: unknown field": chat(frobnicate=1),
    "chat: no messages": (CHAT, {"max_tokens": 3}),
    "chat: empty messages": chat(messages=[]),
    "chat: bad role": chat(messages=[{"role": "root", "content": "a"}]),
    "chat: bad temperature": chat(temperature="hot"),
    "chat: bad choice": chat(tools=TOOLS, tool_choice="any"),
    "chat: bad format": chat(response_format={"type": "xml"}),
    "chat: stray top_logprobs": chat(top_logprobs=2),
    "chat: too long": chat(messages=[{"role": "user", "content": "long" * 2000}]),
    "text": text(),
    "text: stream": text(stream=True),
    "text: usage": text(**USAGE),
    "text: logprobs": text(logprobs=2),
    "text: echo": text(echo=True),
    "text: no prompt": (TEXT, {"prompt": {}}),
    "response": response(),
    "response: stream": response(stream=True),
    "response: items": response(input=[{"role": "user", "content": "hi"}]),
    "response: tools": response(tools=[{"type": "function", **FUNCTION}], tool_choice="required"),
    "response: tools, stream": response(
        tools=[{"type": "function", **FUNCTION}],
        tool_choice="required",
        stream=True,
    ),
    "response: previous": response(previous_response_id="resp_1"),
    "response: no input": (RESPONSES, {"max_output_tokens": 3}),
    "models": ("/v1/models", {}),
    "no such path": ("/v1/nothing", {"a": 1}),
    "chat: one stop": chat(stop="x"),
    "chat: text format": chat(response_format={"type": "text"}),
    "chat: system": chat(messages=[{"role": "system", "content": "a"}, *HELLO]),
    "chat: turns": chat(messages=[*HELLO, {"role": "assistant", "content": "a"}, *HELLO]),
    "chat: result": chat(messages=[*CALLED, RESULT]),
    "chat: no tools": chat(tools=[], tool_choice="auto"),
    "chat: tool_choice none": chat(tools=TOOLS, tool_choice="none"),
    "chat: usage unasked": chat(stream=True, stream_options={}),
    "chat: penalties": chat(frequency_penalty=0.5, repeat_penalty=1.1, top_k=5, min_p=0.1),
    "chat: n of 0": chat(n=0),
    "chat: bad stop": chat(stop={"a": 1}),
    "chat: bad stream": chat(stream="yes"),
    "chat: bad tools": chat(tools={"a": 1}),
    "chat: nameless tool": chat(tools=[{"type": "function", "function": {}}]),
    "chat: messages as text": chat(messages="hi"),
    "chat: message as text": chat(messages=["hi"]),
    "chat: no content": chat(messages=[{"role": "user"}]),
    "chat: no role": chat(messages=[{"content": "hi"}]),
    "chat: bad content": chat(messages=[{"role": "user", "content": 7}]),
    "chat: bad part": chat(messages=[{"role": "user", "content": [{"type": "smell"}]}]),
    "chat: image": chat(messages=[{"role": "user", "content": [FAR]}]),
    "chat: bad JSON": (CHAT, b"{'messages': 1}"),
    "chat: empty body": (CHAT, b""),
    "chat: list as body": (CHAT, b"[]"),
    "chat: GET": (CHAT, {}),
    "text: n": text(n=2),
    "text: list": text(prompt=["hi"]),
    "text: stop": text(stop=["x", "y"]),
    "text: bad temperature": text(temperature=[]),
    "text: bad JSON": (TEXT, b"{"),
    "response: instructions": response(instructions="be brief"),
    "response: result": response(input=[*HELLO, CALL_ITEM, GAVE_ITEM]),
    "response: schema": response(
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "boolean"}}},
        logit_bias={},
    ),
    "response: bad input": response(input=7),
    "response: bad item": response(input=[{"type": "smell"}]),
    "response: bad JSON": (RESPONSES, b"{"),
    "message": message(),
    "message: stream": message(stream=True),
    "message: system": message(system=[{"type": "text", "text": "a"}]),
    "message: blocks": message(messages=[{"role": "user", "content": PARTS}]),
    "message: stop": message(stop_sequences=["x"], temperature=0.5, top_k=5),
    "message: tools": message(tools=OF_ANTHROPIC, tool_choice={"type": "any"}),
    "message: tools, stream": message(tools=OF_ANTHROPIC, tool_choice={"type": "any"}, stream=True),
    "message: result": message(messages=[*USES, {"role": "user", "content": [GAVE]}]),
    "message: no messages": (MESSAGES, {"max_tokens": 3}),
    "message: bad role": message(messages=[{"role": "root", "content": "a"}]),
    "message: bad JSON": (MESSAGES, b"{"),
    "count": (COUNT, {"messages": HELLO}),
    "count: no messages": (COUNT, {"system": "a"}),
    "embeddings": ("/v1/embeddings", {"input": "hi"}),
    "embeddings: no input": ("/v1/embeddings", {"encoding_format": "float"}),
}


STATUS: Final = {
    "chat: empty messages": (400, 200, "it answers nobody"),
    "chat: bad role": (400, 200, "it passes any word on to the template"),
    "text: echo": (400, 200, "it ignores the field"),
    "chat: bad stop": (400, 200, "it ignores the field"),
    **dict.fromkeys(
        ("chat: bad tools", "chat: nameless tool", "chat: no role", "chat: image"),
        (400, 500, "it calls a client's mistake its own, and clients would repeat the request"),
    ),
    **dict.fromkeys(
        ("message: no messages", "count: no messages"),
        (400, 500, "it calls a client's mistake its own, and clients would repeat the request"),
    ),
    "chat: GET": (405, 404, "a path that is there takes other methods, and says which"),
    "message: bad role": (400, 200, "it passes any word on to the template"),
    **dict.fromkeys(
        ("embeddings", "embeddings: no input"),
        (400, 501, "it has one model; of several, a request names one that cannot"),
    ),
}
"Cases in which the status differs: ours, theirs, why."
REASONS: Final = {
    "figures and fields of its own": (
        "*/theirs/timings.*",
        "*/theirs/usage.prompt_tokens_details.*",
        "models/theirs/*",
    ),
    "our figures: who answered, which layers where, and how long it took": (
        "*/ours/x_aitorrent.*",
    ),
    "fields for Anthropic's clients, which read the same path": ("models/ours/*",),
    "OpenAI sends null where there is nothing": (
        "chat*/ours/choices.#.logprobs",
        "chat*/ours/choices.#.logprobs.refusal",
        "chat*/ours/choices.#.message.refusal",
        "*: usage/ours/usage",
    ),
    "the first delta has an empty text at OpenAI, and null there": (
        "chat*/types/choices.#.delta.content",
    ),
    "an error has OpenAI's four keys, and a word for a code": (
        "*/ours/error.param",
        "*/types/error.code",
        "chat: too long/theirs/error.n_*",
    ),
    "a response has every key of OpenAI's, and its events a number": ("response*/ours/*",),
    "an answer that is cut off is incomplete: it calls that completed": (
        "response*/types/completed_at",
    ),
    "it answers in text: its template shows no tools": (
        "chat: tools*/ours/*.tool_calls.*",
        "chat: tools/types/choices.#.message.content",
        "response: tools*/theirs/*",
    ),
    "Anthropic's SDKs expect all counts of the usage, and Claude Code reads them at the end": (
        "message*/ours/*usage.*",
    ),
    "it answers in text there too": (
        "message: tools*/ours/content*",
        "message: tools, stream/ours/delta.partial_json",
        "message: tools*/theirs/*.text",
    ),
    "Anthropic's errors have a type at the top and the request's id, and no code": (
        "message: bad JSON/*",
    ),
    "it leaves the log-probabilities of a text out": ("text: logprobs/*/choices.#.logprobs*",),
    "it sends the usage of a text unasked": ("text: stream/theirs/usage.*",),
}
"Why keys or types differ: CASE/SIDE/KEY, where # is any item of a list."


class Spoken(ScriptedBackend):
    """Three tokens, or a call where one is required."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        if request.messages and "long" in request.messages[-1].content:
            raise InvalidParams("the prompt has 8000 tokens", prompt_tokens=8000, context=1024)
        if request.tool_choice == "required":
            yield Chunk("", tool_calls=(ToolCall(name="f", arguments='{"a":true}'),))
        else:
            top = tuple(TokenLogprob("a", -1.0, 97, b"a") for _ in range(2))
            given = (TokenLogprob("a", -1.0, 97, b"a", top),) if request.params.logprobs else ()
            for _ in range(3):
                yield Chunk("a", logprobs=given)
        reason: DoneReason = "tool_calls" if request.tool_choice == "required" else "length"
        yield Chunk("", done=True, reason=reason, prompt_tokens=9, completion_tokens=3)

    async def count_tokens(self, request: GenerateRequest) -> int:
        return 9


async def asked(address: str, path: str, fields: dict[str, Any] | bytes) -> Answer:
    """The answer to a POST of these fields or bytes, or to a GET if there are no fields."""
    if fields == {}:
        return await exchange(address, request("GET", path, {}, b""))
    body = fields if isinstance(fields, bytes) else json.dumps({"model": "m", **fields}).encode()
    head = {"Content-Type": "application/json"}
    return await exchange(address, request("POST", path, head, body))


def shape(answer: Answer) -> dict[str, set[str]]:
    """The types of each key in an answer, or in all events of a stream."""
    found: dict[str, set[str]] = defaultdict(set)
    for value in values(answer.body.decode()):
        _note(value, "", found)
    return found


def values(body: str) -> list[Any]:
    if not body.startswith(("data:", "event:", ":")):
        return [json.loads(body)]
    lines = [line for line in body.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def _note(value: Any, path: str, found: dict[str, set[str]]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _note(inner, f"{path}.{key}".lstrip("."), found)
    elif isinstance(value, list):
        for inner in value:
            _note(inner, f"{path}.#", found)
    else:
        kind = "number" if type(value) in (int, float) else type(value).__name__
        found[path].add(kind)


async def test_same_requests_have_the_same_shapes(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    _, ours = await gateway_node(node_factory, Spoken())
    different: list[str] = []
    assert len(CASES) >= 60
    async with llama_server(tmp_path) as theirs:
        for name, (path, fields) in CASES.items():
            mine, other = await asked(ours, path, fields), await asked(theirs, path, fields)
            expected = STATUS.get(name, (other.status, other.status))[:2]
            assert (name, mine.status, other.status) == (name, *expected)
            if mine.status != other.status:
                continue
            a, b = shape(mine), shape(other)
            different += [f"{name}/ours/{key}" for key in a.keys() - b.keys()]
            different += [f"{name}/theirs/{key}" for key in b.keys() - a.keys()]
            different += [f"{name}/types/{key}" for key in a.keys() & b.keys() if a[key] != b[key]]
    patterns = [pattern for each in REASONS.values() for pattern in each]
    unexplained = [d for d in different if not any(fnmatchcase(d, each) for each in patterns)]
    assert sorted(unexplained) == []
    unused = [each for each in patterns if not any(fnmatchcase(d, each) for d in different)]
    assert unused == []
