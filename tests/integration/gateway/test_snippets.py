"""The snippets of the pages on the APIs run as they stand, but for the port."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.gateway_nodes import code_blocks, gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

DOCS: Final = Path(__file__).parents[3] / "docs"
PRINTED: Final = {
    "mcp": ('"name":"demo"', "one two\n"),
    "openai": ("", '"id":"demo"', '"content":"one two"', "one two\n", "one two\n"),
    "anthropic": ("", "", '"text":"one two"', "one two\n", "one two\n"),
}
"What each snippet of a page prints."


def snippets(page: str) -> list[tuple[str, str]]:
    """(language, code) of each that can be run."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"(?ms)^```(sh|python)\n(.*?)^```$", text)


@pytest.mark.parametrize("page", PRINTED)
def test_each_snippet_is_run(page: str) -> None:
    assert len(snippets(page)) == len(PRINTED[page])


async def test_snippet_over_a_unix_socket(node_factory: NodeFactory, tmp_path: Path) -> None:
    socket = tmp_path / "http.sock"
    await gateway_node(node_factory, FakeBackend("f", models=("demo",)), unix_socket=str(socket))
    (code,) = code_blocks("programs", "sh")
    code = code.replace("/run/aitorrent/http.sock", str(socket))
    process = await asyncio.create_subprocess_exec("sh", "-ec", code, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert json.loads(out)["choices"][0]["message"]["content"] == "one two"


def test_editors_start_the_same_bridge() -> None:
    """Claude Code starts it by the settings on the page about MCP, in a test of its own."""
    (editor,) = (json.loads(code) for code in code_blocks("programs", "json"))
    bridge, _ = (json.loads(code) for code in code_blocks("mcp", "json"))
    assert editor["servers"] == bridge["mcpServers"]


@pytest.mark.parametrize(
    ("page", "number"),
    [(page, n) for page, printed in PRINTED.items() for n in range(len(printed))],
)
async def test_snippet(node_factory: NodeFactory, page: str, number: int) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", models=("demo",)))
    language, code = snippets(page)[number]
    assert "127.0.0.1:8000" in code
    code = code.replace("127.0.0.1:8000", address)
    program = ("sh", "-ec") if language == "sh" else (sys.executable, "-c")
    environ = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    process = await asyncio.create_subprocess_exec(
        *program, code, stdout=asyncio.subprocess.PIPE, env=environ
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert PRINTED[page][number] in out.decode()
