"""Claude Code itself uses the node's tools, through the bridge and over HTTP, with the settings on
the page about MCP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from aitorrentd.api import Chunk, GenerateRequest
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.agent_programs import agent
from tests.support.clients.sealed import PORT, sealed
from tests.support.gateway_nodes import code_blocks, gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

TOOLS = ("mcp__bridge__search_models", "mcp__net__node_status")


class Caller(FakeBackend):
    """Calls both tools, then tells what it got."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        turns = request.messages or ()
        told = [turn.content for turn in turns if turn.role == "tool"]
        if told:
            yield Chunk("They say: " + " ".join(told))
            yield Chunk("", done=True, reason="stop", prompt_tokens=9, completion_tokens=3)
            return
        calls = tuple(ToolCall(id=f"toolu_{n}", name=name) for n, name in enumerate(TOOLS))
        yield Chunk("", done=True, reason="tool_calls", tool_calls=calls)


async def test_claude_code_calls_tools(
    node_factory: NodeFactory, control: Path, tmp_path: Path
) -> None:
    backend, web = Caller("f", models=("m", "demo")), control.with_name("http.sock")
    await gateway_node(node_factory, backend, control=control, unix_socket=str(web))
    bridge, net = (
        json.loads(code)["mcpServers"]["aitorrent"] for code in code_blocks("mcp", "json")
    )
    assert bridge["command"] == "aitorrentctl"
    bridge["command"] = str(Path(sys.executable).parent / "aitorrentctl")
    bridge["env"] = {"AITORRENT_SOCKET": str(control)}
    del net["headers"]  # with a token that nobody has
    assert f":{PORT}/" in net["url"]
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"bridge": bridge, "net": net}}))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{PORT}",
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": "m",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "ENABLE_TOOL_SEARCH": "false",
    }
    words = ["-p", "look", "--mcp-config", str(config), "--strict-mcp-config"]
    words += ["--allowedTools", ",".join(TOOLS)]
    command = [str(await agent("claude")), *words]
    rc, out, err = await sealed(command, web, cwd=tmp_path, env=env)
    assert rc == 0, err
    offered = {tool.name for tool in backend.requests[0].tools}
    assert {*TOOLS, "mcp__bridge__node_undrain", "mcp__net__generate"} <= offered
    assert '"name":"demo"' in out
    assert '"state":"running"' in out
