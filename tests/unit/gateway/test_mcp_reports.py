"""What users reported of other MCP servers and of clients, each with an input of our own.

Of HTTP and of standard output: tests/integration/gateway/mcp/.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from aitorrent_gateway.mcp.messages import encode
from aitorrent_gateway.mcp.models import ARGUMENTS
from aitorrent_gateway.mcp.toolbox import tool_name, tools_of
from aitorrentd.api import InvalidParams, NotFound
from tests.support.mcp_clients import ENVELOPE, METHODS, Asker, FakeCaller, view

TEXT: Final = {"type": "string"}
GOLDEN: Final = Path(__file__).parents[2] / "golden" / "rpc.json"


async def every_tool() -> list[dict[str, Any]]:
    """The tools of a node with all plugins."""
    methods = json.loads(GOLDEN.read_text())
    listed = await Asker(FakeCaller(*methods))("tools/list")
    tools: list[dict[str, Any]] = listed["tools"]
    assert len(tools) > 50
    return tools


async def test_one_odd_schema_does_not_cost_the_others() -> None:
    # anthropics/claude-code 88049: clients drop all tools of a server without a word.
    odd = view("odd.one") | {"params": {"anyOf": [{"type": "object"}, {"type": "array"}]}}
    listed = await Asker(FakeCaller(odd, *METHODS))("tools/list")
    names = {tool["name"] for tool in listed["tools"]}
    assert "odd_one" not in names
    assert "node_status" in names


async def test_no_schema_of_results_can_be_wrong() -> None:
    # anthropics/claude-code 10825 and 10030: an outputSchema without "type": "object".
    assert not [tool["name"] for tool in await every_tool() if "outputSchema" in tool]


async def test_schemas_are_valid_and_have_no_nulls_or_dialects() -> None:
    # anthropics/claude-code 44364: "required": null.
    # ankimcp/anki-mcp-server-addon 75: "$schema" of draft 7.
    for tool in await every_tool():
        schema = tool["inputSchema"]
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert isinstance(schema.get("required", []), list)
        assert '"$schema"' not in json.dumps(schema)


async def test_no_alternatives_at_the_top_of_a_schema() -> None:
    # anthropics/claude-code 4886 and 3383: the API refuses every prompt from then on.
    either = view("an.other", a={"type": "string"})
    either["params"] |= {"oneOf": [{"required": ["a"]}], "allOf": [], "anyOf": []}
    listed = await Asker(FakeCaller(either))("tools/list")
    for tool in [*listed["tools"], *await every_tool()]:
        assert tool["inputSchema"].keys().isdisjoint({"anyOf", "oneOf", "allOf"})


async def test_names_fit_every_client_and_do_not_collide() -> None:
    # anthropics/claude-code 467, openai/codex 8174: names with dots.
    names = [tool["name"] for tool in await every_tool()]
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    assert len(set(names)) == len(names)
    methods = [method["name"] for method in json.loads(GOLDEN.read_text())]
    assert len({tool_name(name) for name in methods} - ARGUMENTS.keys()) == len(methods)
    twins = tools_of([view("a.b_c"), view("a_b.c")], is_known=True)
    assert [tool.method for tool in twins.values()] == ["a.b_c"]


@pytest.mark.parametrize("headers", [{"mcp_method": "x"}, {"mcp_protocol_version": "x"}])
async def test_errors_have_the_id_of_their_request(headers: dict[str, str]) -> None:
    # modelcontextprotocol/csharp-sdk 1687: "id": null although the id was readable.
    body = encode({"jsonrpc": "2.0", "id": "r1", "method": "ping", "params": ENVELOPE})
    answer = await Asker().send(body, **headers)
    assert answer is not None
    assert answer["id"] == "r1"
    assert answer["error"]["code"] == -32020


@pytest.mark.parametrize("absent", [{}, {"arguments": None}, {"arguments": {}, "_meta": None}])
async def test_nulls_are_nothing(absent: dict[str, Any]) -> None:
    # Clients in languages with null send it for what they leave out.
    result = await Asker()("tools/call", {"name": "node_status", **absent})
    assert result["isError"] is False
    assert (await Asker()("tools/list", {"cursor": None}))["tools"]


async def test_nulls_of_optional_arguments_are_nothing() -> None:
    # CodeWithCJ/SparkyFitness 1540, ZenRows/zenrows-mcp 23, NVIDIA/NeMo-Agent-Toolkit 1269:
    # programs send null for what a model left out.
    some = view("node.logs", level={"type": "string"}, peer={"anyOf": [TEXT, {"type": "null"}]})
    ask = Asker(FakeCaller(some, reply={"items": 1}))
    asked = {"name": "node_logs", "arguments": {"level": None, "peer": None, "more": None}}
    await ask("tools/call", asked)
    assert ask.caller.calls == [("node.logs", {"peer": None, "more": None})]
    left_out = dict.fromkeys(("system", "model", "max_tokens", "temperature", "seed"))
    asked = {"name": "generate", "arguments": {"prompt": "hi", **left_out}}
    assert (await ask("tools/call", asked))["isError"] is False
    asked = {"name": "generate", "arguments": {"prompt": None}}
    assert (await ask("tools/call", asked))["content"][0]["text"] == "prompt is required"


@pytest.mark.parametrize("uri", ["aitorrent://model/none", "aitorrent://peer/none"])
async def test_what_a_template_does_not_have_is_no_fault_of_the_server(uri: str) -> None:
    # The specification has -32603 for what is wrong in the server; clients say so, and try again.
    nothing: dict[str, list[Any]] = {"models": [], "pending": []}
    replies: tuple[Any, ...] = (nothing, NotFound("no peer none"), InvalidParams("no id"))
    for reply in replies:
        ask = Asker(FakeCaller(view("inference.models"), view("transport.why"), reply=reply))
        if isinstance(reply, Exception) or "model" in uri:
            assert (await ask("resources/read", {"uri": uri}))["code"] == -32602


class Short(FakeCaller):
    """A node whose model has room for 30 tokens of an answer."""

    async def stream(
        self, method: str, params: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> AsyncGenerator[dict[str, Any]]:
        wanted = (params or {})["params"]["max_tokens"]
        if wanted > 30:
            raise InvalidParams("too long", context=512, prompt_tokens=482, max_tokens=wanted)
        async for item in super().stream(method, params, **kwargs):
            yield item


@pytest.mark.parametrize("wanted", [{}, {"max_tokens": 32_768}])
async def test_an_answer_may_be_as_long_as_there_is_room(wanted: dict[str, int]) -> None:
    # What models ask for does not depend on the model that they ask, nor does the default.
    ask = Asker(Short())
    arguments = {"prompt": "hi", "model": "demo", **wanted}
    result = await ask("tools/call", {"name": "generate", "arguments": arguments})
    assert (result["isError"], result["content"][0]["text"]) == (False, "012")
    assert [sent["params"]["max_tokens"] for _, sent in ask.caller.calls] == [30]


async def test_a_wrong_argument_is_told_to_the_model() -> None:
    # modelcontextprotocol SEP-1303: as a protocol error, models never saw it.
    result = await Asker()("tools/call", {"name": "generate", "arguments": {"prompt": 5}})
    assert result["isError"] is True
    assert result["content"][0]["text"] == "prompt must be a string"


async def test_empty_results_have_no_keys_in_the_first_era() -> None:
    # TypeScript and Rust clients refuse unknown keys in the answer to a ping.
    assert await Asker()("ping") == {}
    assert (await Asker()("ping", ENVELOPE))["code"] == -32601
