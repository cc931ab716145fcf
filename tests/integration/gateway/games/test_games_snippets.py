"""The snippets of the page for games run as they stand, but for the port, and run again."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from aitorrent_gateway.images.pictures import picture
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

PAGE = Path(__file__).parents[4] / "docs" / "games.md"
SNIPPETS: list[tuple[str, str]] = re.findall(
    r"(?ms)^```(sh|python)\n(.*?)^```$", PAGE.read_text(encoding="utf-8")
)
PRINTED = ('"response":"one two"', "", "one two\n")


def test_each_snippet_is_run() -> None:
    assert len(SNIPPETS) == len(PRINTED)


@pytest.mark.parametrize("number", range(len(PRINTED)))
async def test_snippet(node_factory: NodeFactory, tmp_path: Path, number: int) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", models=("demo",)))
    language, code = SNIPPETS[number]
    assert "http://127.0.0.1:8000" in code
    code = code.replace("127.0.0.1:8000", address)
    program = ("sh", "-ec") if language == "sh" else (sys.executable, "-c")
    environ = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *program, code, stdout=asyncio.subprocess.PIPE, env=environ, cwd=tmp_path
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert PRINTED[number] in out.decode()
    if "image.png" in code:
        assert picture((tmp_path / "image.png").read_bytes(), "node").media_type == "image/png"
