"""What a client says about tools, stop texts and thinking, over a model that three nodes hold a
third of each, and through a fourth node that holds none of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from tests.integration.models.test_shards_tools import AGE, TEMPLATE, model
from tests.support.clients.raw_http import exchange, request
from tests.support.http_nodes import called, served
from tests.support.nodes import NodeFactory, wait_for
from tests.support.shards.shards_nodes import shards_network

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
OLLAMA, GENERATE, GAME, TEXT = "/api/chat", "/api/generate", "/txt", "/v1/completions"
HEADERS: Final = {"Content-Type": "application/json", "anthropic-version": "2023-06-01"}
HI: Final = [{"role": "user", "content": "hi"}]
EFFORTS: Final = TEMPLATE.replace("[assistant]", "{{ reasoning_effort }}[assistant]")
CALLS: Final = {"310": 100, "311": 100}
"Makes `<tool_call>` likely, and its end."
GOES_ON: Final = {"313": -100, "257": -100}
"Neither `</think>` nor the end of an answer."


@pytest.fixture
async def addresses(
    node_factory: NodeFactory, tmp_path: Path
) -> AsyncIterator[tuple[str, str, Path]]:
    """Of a node with a third of the model, and of one that only knows peers; and the model."""
    path = model(tmp_path / "m")
    (path / "chat_template.jinja").write_text(EFFORTS)
    nodes = await shards_network(node_factory, path, ("0-2", "2-4", "4-6"))
    off = {name: {"enabled": False} for name in ("ollama", "openai", "shards")}
    stranger = await node_factory({"plugins": {**off, "inference": {"refresh_s": 0.1}}})
    await stranger.connect(nodes[0].addresses()[0])

    async def knows() -> bool:
        rows = (await called(stranger, "inference.models"))["models"]
        return "m" in {row["name"] for row in rows}

    await wait_for(knows, 60)
    yield await served(nodes[0]), await served(stranger), path


async def sent(address: str, path: str, **fields: Any) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    body = json.dumps({"model": "m", "stream": False, **fields}).encode()
    found = await exchange(address, request("POST", path, HEADERS, body), timeout_s=60)
    return found.status, json.loads(found.body)


async def told(address: str, path: str, **fields: Any) -> Any:
    status, found = await sent(address, path, **fields)
    assert status == 200, found
    return found


def tools_in(path: str) -> list[dict[str, Any]]:
    """Two tools, as the dialect of this path describes them."""
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    both = (("look", AGE), ("rest", nothing))
    if path == MESSAGES:
        return [{"name": name, "input_schema": schema} for name, schema in both]
    plain = [{"name": name, "parameters": schema} for name, schema in both]
    if path == RESPONSES:
        return [{"type": "function", **each} for each in plain]
    return [{"type": "function", "function": each} for each in plain]


def asking(path: str, seed: int, tokens: int = 120) -> dict[str, Any]:
    length = "max_output_tokens" if path == RESPONSES else "max_tokens"
    question = {"input": "hi"} if path == RESPONSES else {"messages": HI}
    return {**question, length: tokens, "temperature": 1.0, "seed": seed, "tools": tools_in(path)}


def calls_of(path: str, found: Any) -> tuple[list[tuple[str, Any]], str]:
    """(the name and arguments of each call, how the answer ended)."""
    if path == MESSAGES:
        blocks = [each for each in found["content"] if each["type"] == "tool_use"]
        return [(each["name"], each["input"]) for each in blocks], found["stop_reason"]
    if path == RESPONSES:
        items = [each for each in found["output"] if each["type"] == "function_call"]
        return [(each["name"], json.loads(each["arguments"])) for each in items], found["status"]
    (choice,) = found["choices"]
    made = [each["function"] for each in choice["message"].get("tool_calls", ())]
    pairs = [(each["name"], json.loads(each["arguments"])) for each in made]
    return pairs, choice["finish_reason"]


ENDED: Final = {CHAT: "tool_calls", MESSAGES: "tool_use", RESPONSES: "completed"}
ANY: Final[dict[str, Any]] = {CHAT: "required", RESPONSES: "required", MESSAGES: {"type": "any"}}
NAMED: Final[dict[str, Any]] = {
    CHAT: {"type": "function", "function": {"name": "look"}},
    RESPONSES: {"type": "function", "name": "look"},
    MESSAGES: {"type": "tool", "name": "look"},
}
AUTO: Final[dict[str, Any]] = {CHAT: "auto", RESPONSES: "auto", MESSAGES: {"type": "auto"}}
NONE: Final[dict[str, Any]] = {CHAT: "none", RESPONSES: "none", MESSAGES: {"type": "none"}}


def one(path: str, choice: Any) -> dict[str, Any]:
    """The choice, and that at most one tool may be called."""
    if path == MESSAGES:
        return {"tool_choice": {**choice, "disable_parallel_tool_use": True}}
    return {"tool_choice": choice, "parallel_tool_calls": False}


async def test_the_choice_among_tools_holds(addresses: tuple[str, str, Path]) -> None:
    for seed, (address, path) in enumerate(product(addresses[:2], ENDED)):
        wish = asking(path, seed)
        found = await told(address, path, **wish, **one(path, ANY[path]))
        ((name, arguments),), reason = calls_of(path, found)
        assert (name in ("look", "rest"), reason) == (True, ENDED[path])
        assert list(arguments) == (["age"] if name == "look" else [])
        found = await told(address, path, **wish, **one(path, NAMED[path]))
        ((name, arguments),), _ = calls_of(path, found)
        assert (name, 10 <= arguments["age"] <= 99) == ("look", True)
        found = await told(address, path, **asking(path, seed, 12), tool_choice=NONE[path])
        assert calls_of(path, found)[0] == []
        found = await told(address, path, **asking(path, seed, 12), **one(path, AUTO[path]))
        assert calls_of(path, found)[0] == []  # by these weights
        if path == MESSAGES:
            continue
        # The same question, with tokens made likely that begin and end calls.
        found = await told(address, path, **wish, **one(path, "auto"), logit_bias=CALLS)
        assert len(calls_of(path, found)[0]) == 1


def said_in(path: str, found: Any) -> tuple[str, Any]:
    """(the text of an answer, how it ended)."""
    match path:
        case "/v1/chat/completions":
            (choice,) = found["choices"]
            return choice["message"]["content"], choice["finish_reason"]
        case "/v1/responses":
            return found["output"][0]["content"][0]["text"], found["status"]
        case "/v1/messages":
            (block,) = found["content"]
            return block["text"], (found["stop_reason"], found["stop_sequence"])
        case "/api/chat":
            return found["message"]["content"], found["done_reason"]
    return found["response"], found["done_reason"]


def stopping(path: str, seed: int, stops: list[str]) -> dict[str, Any]:
    """A question that shall end before one of these texts."""
    if path in (OLLAMA, GENERATE, GAME):
        options = {"temperature": 1.0, "seed": seed, "num_predict": 60, "stop": stops}
        asked = {"messages": HI} if path == OLLAMA else {"prompt": "hi"}
        return {**asked, "options": options}
    fields = {k: v for k, v in asking(path, seed, 60).items() if k != "tools"}
    return fields | {"stop_sequences" if path == MESSAGES else "stop": stops}


STOPPED: Final = {
    CHAT: "stop",
    RESPONSES: "completed",
    OLLAMA: "stop",
    GENERATE: "stop",
    GAME: "stop",
}


async def test_stop_texts_hold_in_every_dialect(addresses: tuple[str, str, Path]) -> None:
    """They begin in the middle of a token, contain each other, are empty, or never come."""
    first, stranger, _ = addresses
    for seed in range(50):
        whole, _ = said_in(CHAT, await told(first, CHAT, **stopping(CHAT, seed, [])))
        if (letters := re.search(r"(?<!^)[ -~]{5,}", whole)) is not None:
            break
    assert letters is not None
    stop = letters.group()[1:4]
    due = whole[: whole.index(stop)]
    assert due
    for address in (first, stranger):
        for path in (CHAT, RESPONSES, MESSAGES, OLLAMA, GENERATE, GAME):
            stops = ["", f"{stop}\0", stop, "never said"]
            found = await told(address, path, **stopping(path, seed, stops))
            right = ("stop_sequence", stop) if path == MESSAGES else STOPPED[path]
            assert (path, said_in(path, found)) == (path, (due, right))
            found = await told(address, path, **stopping(path, seed, ["never said"]))
            assert (path, said_in(path, found)[0]) == (path, whole)


def thought(path: str, found: Any) -> str:
    """What the model thought, as far as it is told."""
    if path == MESSAGES:
        return "".join(each["thinking"] for each in found["content"] if each["type"] == "thinking")
    if path in (OLLAMA, GENERATE):
        return str((found["message"] if path == OLLAMA else found).get("thinking") or "")
    return str(found["choices"][0]["message"].get("reasoning_content") or "")


async def test_thinking_is_as_the_client_wants_it(addresses: tuple[str, str, Path]) -> None:
    """On, off, or for how long: a template with a word for it is told."""
    first, stranger, folder = addresses
    tokenizer = ModelTokenizer(read_model(folder), model="m")

    def length(**variables: Any) -> int:
        return len(tokenizer.encode(None, HI, variables=variables))

    chat = {"messages": HI, "max_tokens": 8, "seed": 1, "logit_bias": GOES_ON}
    for address in (first, stranger):
        for effort, variables in (
            ("none", {"enable_thinking": False}),
            ("minimal", {"reasoning_effort": "low"}),
            ("medium", {"reasoning_effort": "medium"}),
            ("high", {"reasoning_effort": "high"}),
            ("xhigh", {"reasoning_effort": "high"}),
        ):
            found = await told(address, CHAT, **chat, reasoning_effort=effort)
            assert found["usage"]["prompt_tokens"] == length(**variables), effort
            found = await told(
                address, RESPONSES, input="hi", max_output_tokens=8, reasoning={"effort": effort}
            )
            assert found["usage"]["input_tokens"] == length(**variables), effort
        for path, on, off in (
            (OLLAMA, {"think": True}, {"think": False}),
            (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 1024}},
             {"thinking": {"type": "disabled"}}),
            (GENERATE, {"think": True}, {"think": False}),
        ):  # fmt: skip
            usual = stopping(path, 3, ["never said"])
            found = await told(address, path, **usual, **on)
            assert thought(path, found), path
            if path == MESSAGES:
                assert 0 < found["usage"]["output_tokens_details"]["thinking_tokens"] <= 60
            assert not thought(path, await told(address, path, **usual, **off)), path
        ollama = await told(address, OLLAMA, **stopping(OLLAMA, 3, []), think="high")
        assert ollama["prompt_eval_count"] == length(reasoning_effort="high")


async def test_turn_that_a_client_begins_is_continued(addresses: tuple[str, str, Path]) -> None:
    """As with Anthropic and Ollama, and with a field in OpenAI's dialect."""
    turns = [*HI, {"role": "assistant", "content": "Well, "}]
    raw = {"prompt": "[user]hi[assistant]Well, "}
    usual = {"messages": turns, "max_tokens": 12, "temperature": 0}
    options = {"num_predict": 12, "temperature": 0}
    for address in addresses[:2]:
        found = await told(address, TEXT, **raw, max_tokens=12, temperature=0)
        due = (found["choices"][0]["text"], found["usage"]["prompt_tokens"])
        for mark in (
            {"continue_final_message": True, "add_generation_prompt": False},
            {"messages": [*HI, turns[-1] | {"prefix": True}]},
        ):
            found = await told(address, CHAT, **usual | mark)
            assert (said_in(CHAT, found)[0], found["usage"]["prompt_tokens"]) == due
        found = await told(address, CHAT, **usual)
        assert found["usage"]["prompt_tokens"] > due[1]  # a turn of its own, as at OpenAI
        found = await told(address, MESSAGES, **usual)
        assert (said_in(MESSAGES, found)[0], found["usage"]["input_tokens"]) == due
        found = await told(address, OLLAMA, messages=turns, options=options)
        assert (said_in(OLLAMA, found)[0], found["prompt_eval_count"]) == due
