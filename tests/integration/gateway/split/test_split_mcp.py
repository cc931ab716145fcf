"""Programs that use a node's tools, in a namespace without an internet."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.gateway.mcp.test_mcp_conformance import NEW, NOT_TESTABLE, OLD
from tests.support.clients.javascript_programs import PINNED, node, packages
from tests.support.shards.split_daemons import URL, Split

HELLO: Final = {
    "protocolVersion": "2024-11-05",
    "capabilities": {},
    "clientInfo": {"name": "TestClient", "version": "0.0.1"},
}


async def _program(folder: str, name: str) -> tuple[str, str]:
    home = await asyncio.to_thread(packages, PINNED.parent / folder)
    return node(), str(home / "node_modules" / ".bin" / name)


async def test_inspector(split: Split, tmp_path: Path) -> None:
    """MCP Inspector lists the tools, and has the split model answer."""
    program = await _program("mcp_inspector", "mcp-inspector")

    async def inspected(method: str, *words: str) -> Any:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        command = (*program, "--cli", f"{URL}/mcp", "--transport", "http", "--method", method)
        return json.loads(await split.run(*command, *words, cwd=tmp_path, env=env))

    tools = (await inspected("tools/list"))["tools"]
    assert {"generate", "search_models", "node_status"} <= {tool["name"] for tool in tools}
    words = ("--tool-name", "generate", "--tool-arg", "prompt=hello", "model=m", "max_tokens=8")
    answer = await inspected("tools/call", *words)
    assert answer["content"][0]["text"]
    assert (answer["isError"], answer["structuredContent"]["model"]) == (False, "m")


@pytest.mark.parametrize(("version", "scenarios"), [("2025-11-25", OLD), ("2026-07-28", NEW)])
async def test_conformance(
    split: Split, tmp_path: Path, version: str, scenarios: tuple[str, ...]
) -> None:
    program = await _program("mcp_conformance", "conformance")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    out = str(tmp_path / "out")
    words = ("server", "--url", f"{URL}/mcp", "--spec-version", version, "-o", out, "--scenario")
    script = 'for scenario in $SCENARIOS; do "$@" $scenario; done; true'
    env["SCENARIOS"] = " ".join(scenarios)
    await split.run("sh", "-c", script, "sh", *program, *words, cwd=tmp_path, env=env, wait_s=120)
    found = [json.loads(file.read_text()) for file in Path(out).rglob("checks.json")]
    assert len(found) == len(scenarios)
    checks = [check for each in found for check in each]
    failed = [check for check in checks if check["status"] == "FAILURE"]
    assert [c for c in failed if not c.get("errorMessage", "").startswith(NOT_TESTABLE)] == []
    assert sum(check["status"] == "SUCCESS" for check in checks) >= 9


async def test_what_the_test_of_godot_ai_sends(split: Split, tmp_path: Path) -> None:
    """Plain JSON by POST: no version, no session, no Accept, and lists before `initialize`."""

    async def posted(method: str, params: Any = None) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method} | (
            {"params": params} if params else {}
        )
        out = await split.run(
            *("curl", "-sS", "-H", "Accept:", "-H", "Content-Type: application/json"),
            *("-d", json.dumps(body), f"{URL}/mcp"),
            cwd=tmp_path,
        )
        return json.loads(out)["result"]

    assert (await posted("prompts/list"))["prompts"]
    assert (await posted("initialize", HELLO))["protocolVersion"] == "2024-11-05"
    assert (await posted("tools/list"))["tools"]
    assert (await posted("resources/list"))["resources"]
