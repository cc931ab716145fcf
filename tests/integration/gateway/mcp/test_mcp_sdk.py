"""The official Python SDK's client, over HTTP and over the stdio bridge, in each of its modes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import called
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

MODES = ("legacy", "auto", "2026-07-28")
CTL = str(Path(sys.executable).parent / "aitorrentctl")


def over_http(address: str) -> Any:
    return streamable_http_client(f"http://{address}/mcp")


def over_stdio(control: Path) -> Any:
    environ = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")}
    started = StdioServerParameters(
        command=CTL, args=["--socket", str(control), "mcp"], env=environ
    )
    return stdio_client(started)


def first_text(result: CallToolResult) -> str:
    text: str = result.model_dump()["content"][0]["text"]
    return text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["http", "stdio"])
async def test_sdk(node_factory: NodeFactory, control: Path, way: str, mode: Any) -> None:
    backend = FakeBackend("f", models=("demo",))
    node, address = await gateway_node(node_factory, backend, control=control)
    ident = (await called(node, "node.status"))["id"]
    transport = over_http(address) if way == "http" else over_stdio(control)
    async with Client(transport, mode=mode) as client:
        tools = await client.list_tools()
        names = {tool.name for tool in tools.tools}
        assert {"generate", "search_models", "node_status"} <= names
        assert ("node_undrain" in names) is (way == "stdio")
        told: list[tuple[float, float | None, str | None]] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total, message))

        found = await client.call_tool("search_models", {"query": "DEM"})
        assert found.structured_content["result"]["models"][0]["name"] == "demo"
        answer = await client.call_tool(
            "generate", {"prompt": "hi", "model": "demo"}, progress_callback=note
        )
        assert first_text(answer) == "one two"
        assert told
        status = await client.call_tool("node_status", {})
        assert status.structured_content["untrusted"] is True
        assert status.structured_content["result"]["id"] == ident
        wrong = await client.call_tool("generate", {"promt": "hi"})
        assert wrong.is_error
        assert "prompt" in first_text(wrong)
        with pytest.raises(MCPError, match="Unknown tool: node_stop"):
            await client.call_tool("node_stop", {})
        listed = await client.list_resources()
        assert "aitorrent://models" in {str(r.uri) for r in listed.resources}
        read = await client.read_resource("aitorrent://model/demo")
        assert '"name": "demo"' in read.model_dump()["contents"][0]["text"]
        templates = await client.list_resource_templates()
        assert "aitorrent://model/{name}" in {t.uri_template for t in templates.resource_templates}
        prompts = await client.list_prompts()
        assert {p.name for p in prompts.prompts} >= {"diagnose_node", "plan_split"}
        prompt = await client.get_prompt("plan_split", {"model": "Qwen"})
        assert "the model Qwen together" in prompt.model_dump()["messages"][0]["content"]["text"]
