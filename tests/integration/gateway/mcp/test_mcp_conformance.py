"""The conformance suite of MCP's maintainers, for both eras.

Most of its scenarios call tools and prompts that only a server made for the suite has; those here
need none, but for single checks, which say that they are not testable.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import pytest

from tests.support.clients.javascript_programs import node, packages
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

PINNED: Final = Path(__file__).parents[3] / "support" / "clients" / "mcp_conformance"
OLD: Final = ("server-initialize", "ping", "tools-list", "resources-list", "prompts-list")
NEW: Final = ("server-stateless", "http-header-validation", "caching", "tools-list")
NOT_TESTABLE: Final = "Not testable: server does not list the diagnostic tool"


async def checks(address: str, version: str, scenario: str, out: Path) -> list[dict[str, str]]:
    """What a scenario found."""
    home = await asyncio.to_thread(packages, PINNED)
    program = home / "node_modules" / ".bin" / "conformance"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(node(), str(program), "server", "--url", f"http://{address}/mcp"),
        *("--spec-version", version, "--scenario", scenario, "-o", str(out / scenario)),
        stdout=pipe,
        stderr=pipe,
    )
    said, _ = await process.communicate()
    files = list(out.glob(f"{scenario}/*/checks.json"))
    assert len(files) == 1, said.decode()
    found: list[dict[str, str]] = json.loads(files[0].read_text())
    return found


@pytest.mark.parametrize(
    ("version", "scenarios"),
    [("2025-11-25", (*OLD, "dns-rebinding-protection")), ("2026-07-28", NEW)],
)
async def test_conformance(
    node_factory: NodeFactory, tmp_path: Path, version: str, scenarios: tuple[str, ...]
) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    passed = 0
    for scenario in scenarios:
        for check in await checks(address, version, scenario, tmp_path):
            told = check.get("errorMessage", "")
            if check["status"] == "FAILURE" and not told.startswith(NOT_TESTABLE):
                pytest.fail(f"{scenario}: {check['id']}: {told}")
            passed += check["status"] == "SUCCESS"
    assert passed >= (10 if version == "2025-11-25" else 40)
