"""Tools, log-probabilities, choices and images in the OpenAI API, byte for byte where clients
depend on it, over a backend that says what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from aitorrent_gateway.openai.requests import MAX_CHOICES
from aitorrentd.api import Busy, Chunk, GenerateRequest
from aitorrentd.api.models.features import FEATURES
from aitorrentd.api.models.logprobs import TokenLogprob
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.nodes import NodeFactory

HELLO = [{"role": "user", "content": "hello"}]
JSON = {"Content-Type": "application/json"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
END = Chunk("", done=True, reason="stop", prompt_tokens=3, completion_tokens=2)


async def asked(address: str, path: str = "chat/completions", **fields: Any) -> Answer:
    body = json.dumps({"model": "m", **fields}).encode()
    return await exchange(address, request("POST", f"/v1/{path}", JSON, body))


def choices(answer: Answer) -> list[dict[str, Any]]:
    """The choices in the events of a stream that is whole."""
    assert answer.status == 200
    *events, done = answer.body.decode().replace(": keep-alive\n\n", "").split("\n\n")[:-1]
    assert done == "data: [DONE]"
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    return [choice for event in parsed for choice in event["choices"]]


async def test_calls_of_tools(node_factory: NodeFactory) -> None:
    """The shape that SDKs put together; the reason is `tool_calls` also if a server said `stop`
    (opencode 14972: agents ended their loop); each call has
    an index of its own (ollama 15457: clients joined their arguments)."""
    calls = (ToolCall(id="c1", name="weather", arguments='{"at":"B"}'), ToolCall(name="weather"))
    backend = ScriptedBackend(Chunk("let me see"), Chunk("", tool_calls=calls), END)
    _, address = await gateway_node(node_factory, backend)
    first, text, *deltas, last = choices(
        await asked(address, messages=HELLO, tools=[TOOL], stream=True)
    )
    assert [each["delta"] for each in (first, text, last)] == [
        {"role": "assistant", "content": ""},
        {"content": "let me see"},
        {},
    ]
    parts = [each["delta"]["tool_calls"][0] for each in deltas]
    made_id = parts[2]["id"]
    assert made_id.startswith("call_")  # clients send it back with the result
    function = {"name": "weather", "arguments": ""}
    assert parts == [
        {"id": "c1", "type": "function", "function": function, "index": 0},
        {"index": 0, "function": {"arguments": '{"at":"B"}'}},
        {"id": made_id, "type": "function", "function": function, "index": 1},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert [each["finish_reason"] for each in (first, text, *deltas, last)] == [
        *[None] * 6,
        "tool_calls",
    ]
    whole = json.loads((await asked(address, messages=HELLO, tools=[TOOL])).body)
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "let me see"
    assert choice["message"]["tool_calls"][0] == {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"at":"B"}'},
    }
    backend.script = (Chunk("", tool_calls=calls[:1]), END)
    silent = json.loads((await asked(address, messages=HELLO, tools=[TOOL])).body)
    assert silent["choices"][0]["message"]["content"] is None
    backend.script = (Chunk("sunny"), END)
    calm = json.loads((await asked(address, messages=HELLO, tools=[TOOL])).body)
    assert "tool_calls" not in calm["choices"][0]["message"]  # openai-node 1341
    assert calm["choices"][0]["finish_reason"] == "stop"


HE = TokenLogprob("He", -0.5, 7, b"He", (TokenLogprob("He", -0.5, 7, b"He"),))
HALF = TokenLogprob("\ufffd", -2.0, 8, b"\xe2\x80", (TokenLogprob("\ufffd", -2.0, 8, b"\xe2\x80"),))
SHOWN_HE = {"id": 7, "token": "He", "logprob": -0.5, "bytes": [72, 101]}


async def test_log_probabilities(node_factory: NodeFactory) -> None:
    """Tokens whose text is held back come with their log-probabilities all the same."""
    backend = ScriptedBackend(Chunk("He", logprobs=(HE,)), Chunk("", logprobs=(HALF,)), END)
    _, address = await gateway_node(node_factory, backend)
    fields: dict[str, Any] = {"messages": HELLO, "logprobs": True, "top_logprobs": 1}
    whole = json.loads((await asked(address, **fields)).body)["choices"][0]["logprobs"]
    assert whole["content"][0] == {**SHOWN_HE, "top_logprobs": [SHOWN_HE]}
    assert [each["logprob"] for each in whole["content"]] == [-0.5, -2.0]
    streamed = choices(await asked(address, **fields, stream=True))
    assert [each["delta"] for each in streamed] == [
        {"role": "assistant", "content": ""},
        {"content": "He"},
        {"content": ""},
        {},
    ]
    parts = [each["logprobs"] for each in streamed]
    assert (parts[0], parts[3]) == (None, None)
    assert [part["content"] for part in parts[1:3]] == [[one] for one in whole["content"]]
    params = backend.requests[-1].params
    assert (params.logprobs, params.top_logprobs) == (True, 1)
    # sglang 39260: in a chunk of two tokens, the second had the alternatives of the first
    backend.script = (Chunk("He", logprobs=(HE, HALF)), END)
    both = choices(await asked(address, **fields, stream=True))[1]["logprobs"]["content"]
    assert both == whole["content"]
    unasked = await asked(address, messages=HELLO, stream=True)
    assert [each["logprobs"] for each in choices(unasked)] == [None] * 3


async def test_legacy_log_probabilities(node_factory: NodeFactory) -> None:
    backend = ScriptedBackend(Chunk("He", logprobs=(HE,)), Chunk("", logprobs=(HALF,)), END)
    _, address = await gateway_node(node_factory, backend)
    whole = json.loads((await asked(address, "completions", prompt="a", logprobs=1)).body)
    half = "bytes:\\xe2\\x80"  # OpenAI's way to tell such tokens apart
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["He", half],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"He": -0.5}, {half: -2.0}],
        "text_offset": [0, 2],
    }
    streamed = choices(await asked(address, "completions", prompt="a", logprobs=1, stream=True))
    assert [each["logprobs"] and each["logprobs"]["text_offset"] for each in streamed] == [
        [0],
        [2],
        None,
    ]


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_several_choices(node_factory: NodeFactory, path: str) -> None:
    """Each is a generation of its own; the prompt counts once (llama.cpp counted one choice)."""
    backend = ScriptedBackend(Chunk("one"), END)
    _, address = await gateway_node(node_factory, backend)
    fields: dict[str, Any] = {"messages": HELLO} if path.startswith("chat") else {"prompt": "a"}
    fields |= {"n": 3, "seed": 5, "stream_options": {"include_usage": True}}
    whole = json.loads((await asked(address, path, **fields)).body)
    assert [each["index"] for each in whole["choices"]] == [0, 1, 2]
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    assert sorted(each.params.seed or 0 for each in backend.requests) == [5, 6, 7]
    answer = await asked(address, path, **fields, stream=True)
    streamed = choices(answer)
    for index in range(3):
        mine = [each for each in streamed if each["index"] == index]
        assert [each["finish_reason"] for each in mine][-2:] == [None, "stop"]
    assert b'"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":6' in answer.body


class Echo(ScriptedBackend):
    """Says the prompt, one token for each of its letters; the first answers begin `together`."""

    def __init__(self, *script: Chunk, together: int = 1) -> None:
        super().__init__(*script)
        self.running = 0
        self.others = list[int]()
        "How many ran when an answer began."
        self.together, self._are_together = together, asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.others.append(self.running)
        self.running += 1
        try:
            if self.running >= self.together:
                self._are_together.set()
            await self._are_together.wait()
            letters = request.prompt or ""
            for letter in letters:
                yield Chunk(letter)
            count = len(letters)
            yield Chunk("", done=True, reason="stop", prompt_tokens=count, completion_tokens=count)
        finally:
            self.running -= 1


@pytest.mark.parametrize("count", [2, 20])
async def test_several_prompts(node_factory: NodeFactory, count: int) -> None:
    """LangChain sends 20 in a request. The choices of a prompt follow each other, each prompt
    counts, and no more run at a time than with the largest `n`."""
    backend = Echo(END, together=min(2 * count, MAX_CHOICES))
    _, address = await gateway_node(node_factory, backend)
    prompts = [f"{n}." for n in range(count)]
    letters = 2 * sum(map(len, prompts))
    fields: dict[str, Any] = {"prompt": prompts, "n": 2, "stream_options": {"include_usage": True}}
    whole = json.loads((await asked(address, "completions", **fields)).body)
    assert [each["index"] for each in whole["choices"]] == [*range(2 * count)]
    assert [each["text"] for each in whole["choices"]] == [p for p in prompts for _ in range(2)]
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (
        letters // 2,
        letters,
    )
    answer = await asked(address, "completions", **fields, stream=True)
    streamed = choices(answer)
    for n in range(2 * count):
        mine = [each for each in streamed if each["index"] == n]
        assert "".join(each["text"] for each in mine) == prompts[n // 2]
        assert mine[-1]["finish_reason"] == "stop"
    assert f'"usage":{{"prompt_tokens":{letters // 2}'.encode() in answer.body
    assert max(backend.others) + 1 == backend.together
    assert backend.running == 0


class Small(Echo):
    """Has places for three answers."""

    places = 3

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        if self.running == self.places:
            raise Busy("Too many requests")
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk


class Late(Small):
    """Frees a place a moment after an answer, as a peer does; begins with a notice."""

    taken = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        yield Chunk("", notice="model m is loading")
        if self.taken == self.places:
            raise Busy("Too many requests")
        self.taken += 1
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                if chunk.done:
                    asyncio.get_running_loop().call_later(0.1, self._free)
                yield chunk

    def _free(self) -> None:
        self.taken -= 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [Small, Late])
async def test_prompts_wait_for_the_places_that_a_backend_has(
    node_factory: NodeFactory, stream: bool, kind: type[Small]
) -> None:
    """A peer answers five at a time unless set otherwise, and refuses the sixth at once."""
    backend = kind(END, together=3)
    _, address = await gateway_node(node_factory, backend)
    prompts = [f"{n}." for n in range(20)]
    answer = await asked(address, "completions", prompt=prompts, stream=stream)
    found = choices(answer) if stream else json.loads(answer.body)["choices"]
    texts = ["".join(e["text"] for e in found if e["index"] == n) for n in range(20)]
    assert texts == prompts
    assert max(backend.others) + 1 == backend.places


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{"messages": HELLO, "n": 2}, {"prompt": ["a"] * 20}])
async def test_several_answers_without_any_place_are_refused_by_status(
    node_factory: NodeFactory, stream: bool, fields: dict[str, Any]
) -> None:
    backend = Small(END)
    backend.places = 0
    _, address = await gateway_node(node_factory, backend)
    path = "completions" if "prompt" in fields else "chat/completions"
    answer = await asked(address, path, **fields, stream=stream)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")


async def test_one_prompt_that_fails_ends_those_that_wait(node_factory: NodeFactory) -> None:
    backend = ScriptedBackend(Chunk("one"))
    _, address = await gateway_node(node_factory, backend)
    answer = await asked(address, "completions", prompt=["a"] * 30)
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert len(backend.requests) <= MAX_CHOICES


async def test_one_choice_that_fails_fails_the_answer(node_factory: NodeFactory) -> None:
    backend = ScriptedBackend(Chunk("one"))
    _, address = await gateway_node(node_factory, backend)
    answer = await asked(address, messages=HELLO, n=3)
    assert (answer.status, answer.error["code"]) == (503, "unavailable")


PICTURE = [
    {"type": "text", "text": "what?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": PICTURE}]}, "messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_backend_cannot_do_is_refused_with_its_name(
    node_factory: NodeFactory, fields: dict[str, Any], param: str, stream: bool
) -> None:
    backend = ScriptedBackend(END, can=frozenset())
    _, address = await gateway_node(node_factory, backend)
    answer = await asked(address, **{"messages": HELLO, "stream": stream, **fields})
    found = (answer.status, answer.error["param"], answer.error["code"])
    assert found == (400, param, "unsupported_value")
    backend.can = FEATURES
    assert (await asked(address, **{"messages": HELLO, "stream": stream, **fields})).status == 200
