"""What users reported of other servers that speak Ollama's dialect, and of its clients."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from aitorrentd.api import Chunk, GenerateRequest, PendingModel
from aitorrentd.api.models.tools import ToolCall
from tests.integration.gateway.ollama.test_ollama_stream import HELLO, TOOL, Full, lines, post, sent
from tests.support.clients.raw_http import exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import LACKING, FakeBackend, LoadingBackend
from tests.support.nodes import NodeFactory

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
GET = {"Accept": "application/json"}


async def fetched(address: str, path: str) -> Any:
    return json.loads((await exchange(address, request("GET", path, GET))).body)


async def test_times_are_what_go_parses(node_factory: NodeFactory) -> None:
    """paiml/aprender 2371: `created_at` was a number of seconds, and Go's client dropped all of
    each answer."""
    _, address = await gateway_node(node_factory, Full("f"))
    said = lines(await sent(address, "/api/chat", messages=HELLO))
    times = [each["created_at"] for each in said]
    times += [(await fetched(address, "/api/tags"))["models"][0]["modified_at"]]
    times += [(await fetched(address, "/api/ps"))["models"][0]["expires_at"]]
    times += [json.loads((await sent(address, "/api/show")).body)["modified_at"]]
    assert [time for time in times if not RFC_3339.fullmatch(time)] == []


@pytest.mark.parametrize("keep_alive", ["-1", "0", 0, -1, "5m", 300.5, "1h30m"])
async def test_any_keep_alive_is_taken(node_factory: NodeFactory, keep_alive: object) -> None:
    """skalesapp/skales 281: "-1" was refused, because a duration has a unit."""
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    answer = await sent(address, "/api/chat", messages=HELLO, keep_alive=keep_alive)
    assert lines(answer)[-1]["done"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"a": 1}, '{"a": 1}'), ('{"a": 1}', '{"a": 1}'), ("", "{}"), (None, "{}"), ([], "{}")],
)
async def test_arguments_of_earlier_calls_in_any_form(
    node_factory: NodeFactory, arguments: object, expected: str
) -> None:
    """aliasrobotics/cai 76, neuron-core/neuron-ai 219: clients of two APIs send back a text where
    Ollama has an object; mark3labs/mcphost 50: an empty one; PHP has only lists for empty maps."""
    backend = FakeBackend("f")
    _, address = await gateway_node(node_factory, backend)
    call = {"function": {"name": "f", "arguments": arguments}}
    turns = [*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}]
    turns.append({"role": "tool", "content": "2", "tool_name": "f"})
    assert (await sent(address, "/api/chat", messages=turns)).status == 200
    assert backend.requests[0].messages is not None
    (made,) = backend.requests[0].messages[1].tool_calls
    assert made.arguments == expected


async def test_tools_without_parameters_as_php_writes_them(node_factory: NodeFactory) -> None:
    """ollama/ollama 10328: `properties` is an empty list."""
    backend = Full("f")
    _, address = await gateway_node(node_factory, backend)
    empty = {"type": "object", "properties": [], "required": []}
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": empty}},
        {"type": "function", "function": {"name": "g", "parameters": []}},
    ]
    assert (await sent(address, "/api/chat", messages=HELLO, tools=tools)).status == 200
    first, second = backend.requests[0].tools
    assert first.parameters == {"type": "object", "properties": {}, "required": []}
    assert second.parameters is None


async def test_copilot_finds_version_facts_and_tools(node_factory: NodeFactory) -> None:
    """exo-explore/exo 2042: the version was no triple of integers, `model_info` was null, and
    without `tools` the model stayed hidden; its requests then go to /v1 on the same port."""
    _, address = await gateway_node(node_factory, Full("f"))
    version = (await fetched(address, "/api/version"))["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    shown = json.loads((await sent(address, "/api/show")).body)
    assert shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"]
    assert "tools" in shown["capabilities"]
    answer = await sent(address, "/v1/chat/completions", messages=HELLO)
    assert answer.status == 200


async def test_list_has_what_open_webui_reads(node_factory: NodeFactory) -> None:
    """open-webui/open-webui 6592: a missing field of /api/tags ended in a traceback."""
    _, address = await gateway_node(node_factory, FakeBackend("f", models=("m", "n:7b")))
    rows = (await fetched(address, "/api/tags"))["models"]
    assert [row["model"] for row in rows] == ["m:latest", "n:7b"]
    for row in rows:
        assert row["name"] == row["model"]
        assert type(row["size"]) is int
        assert re.fullmatch(r"[0-9a-f]{64}", row["digest"])
        assert row["details"]["families"] == ["fake"]
        # of a backend that does not say what it can do, tools are assumed
        assert row["capabilities"] == ["completion", "tools"]


async def test_unknown_paths_are_missing(node_factory: NodeFactory) -> None:
    """lmstudio-ai/lmstudio-bug-tracker 190: unknown paths were answered with 200, so clients took
    the server for what it was not."""
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    for path in ("/api/nothing", "/api/tags/models", "/api"):
        assert (await exchange(address, request("GET", path))).status == 404
    wrong = await exchange(address, request("GET", "/api/chat"))
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert json.loads(wrong.body) == {"error": "this path takes POST, not GET"}


@pytest.mark.parametrize("name", ["big", "big:latest"])
async def test_a_model_that_lost_layers_is_not_unknown(
    node_factory: NodeFactory, name: str
) -> None:
    """Programs keep the names of /api/tags, which have a tag; those that read `not found` pull."""
    _, address = await gateway_node(node_factory, LoadingBackend("w", LACKING))
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/api/chat", {"messages": HELLO}),
        ("/api/generate", {"prompt": "a"}),
        ("/api/generate", {}),  # loads the model
        ("/api/show", {}),
    ]
    for path, fields in asked:
        answer = await sent(address, path, model=name, **fields)
        said = json.loads(answer.body)["error"]
        assert (answer.status, said.partition(":")[0]) == (503, "model big cannot answer now")
    for path in ("/api/chat", "/api/show"):
        gone = await sent(address, path, model="gone:latest", messages=HELLO)
        told = json.loads(gone.body)["error"]
        assert (gone.status, told) == (404, "model 'gone:latest' not found")


class Faulty(LoadingBackend):
    """Of a plugin with a fault."""

    def pending(self) -> Sequence[PendingModel]:
        raise ValueError("oh")


@pytest.mark.allow_error_log
async def test_backend_with_a_fault_hides_no_model(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, Faulty("w"))
    for fields in ({"path": "/api/show"}, {"path": "/api/generate"}):
        gone = await sent(address, model="gone", **fields)
        assert (gone.status, json.loads(gone.body)["error"]) == (404, "model 'gone' not found")


async def test_errors_are_in_error_and_texts(node_factory: NodeFactory) -> None:
    """open-webui/open-webui 11906: a proxy said `detail`, which no client of Ollama reads."""
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    for raw in (
        post("/api/chat", model="gone", messages=HELLO),
        post("/api/chat", messages=5),
        post("/api/pull", model="a/b"),
        post("/api/create", model="a"),
    ):
        answer = await exchange(address, raw)
        assert answer.status >= 400
        (error,) = json.loads(answer.body).values()
        assert isinstance(error, str)
        assert list(json.loads(answer.body)) == ["error"]


async def test_stream_is_not_swallowed(node_factory: NodeFactory) -> None:
    """paiml/aprender 2396: `stream: true` was answered with one object; and without the field,
    Ollama streams."""
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    for fields in ({}, {"stream": True}, {"stream": None}):
        said = lines(await sent(address, "/api/chat", messages=HELLO, **fields))
        assert [each["done"] for each in said] == [False, False, True]


async def test_text_streams_also_with_tools(node_factory: NodeFactory) -> None:
    """home-assistant/core 140288: with tools, an answer came as one block."""
    _, address = await gateway_node(node_factory, Full("f"))
    said = lines(await sent(address, "/api/chat", messages=HELLO, tools=[TOOL]))
    texts = [each["message"]["content"] for each in said]
    assert [text for text in texts if text] == ["Hé", ' "\n\u2028']


class Broken(FakeBackend):
    """Calls a tool with arguments that are no JSON object."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        yield Chunk("so ")
        call = ToolCall(id="c", name="f", arguments='{"a":')
        yield Chunk("", done=True, reason="tool_calls", tool_calls=(call,))


async def test_arguments_that_are_no_object_are_an_error(node_factory: NodeFactory) -> None:
    """maximhq/bifrost 1075: they became an empty object, and the tool ran without arguments."""
    _, address = await gateway_node(node_factory, Broken("f"))
    *said, last = lines(await sent(address, "/api/chat", messages=HELLO, tools=[TOOL]))
    assert [each["message"]["content"] for each in said] == ["so "]
    assert "arguments that are no JSON object" in last["error"]
    whole = await sent(address, "/api/chat", messages=HELLO, tools=[TOOL], stream=False)
    assert whole.status == 502
