"""The snippets of the page on the Ollama API run as they stand, but for the port."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.clients.javascript_programs import run_javascript
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

PAGE = Path(__file__).parents[4] / "docs" / "ollama.md"
SNIPPETS: list[tuple[str, str]] = re.findall(
    r"(?ms)^```(sh|python|js)\n(.*?)^```$", PAGE.read_text(encoding="utf-8")
)
PRINTED = ("", '"name":"demo:latest"', '"response":"one two"', "one two\n", "one two\n", "unload")


def test_each_snippet_is_run() -> None:
    assert len(SNIPPETS) == len(PRINTED)


@pytest.mark.parametrize("number", range(len(PRINTED)))
async def test_snippet(node_factory: NodeFactory, number: int) -> None:
    node, address = await gateway_node(node_factory, FakeBackend("f", models=("demo",)))
    language, code = SNIPPETS[number]
    assert "http://127.0.0.1:8000" in code
    code = code.replace("127.0.0.1:8000", address)
    if language == "js":
        assert await run_javascript(code) == PRINTED[number]
        return
    program = ("sh", "-ec") if language == "sh" else (sys.executable, "-c")
    environ = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    environ["TOKEN"] = await new_token(node, "operate")
    process = await asyncio.create_subprocess_exec(
        *program, code, stdout=asyncio.subprocess.PIPE, env=environ
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert PRINTED[number] in out.decode()
