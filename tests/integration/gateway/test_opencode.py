"""opencode, started by what `aitorrentctl launch` tells it, with no internet: it calls a tool."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from aitorrent_gateway.launching.programs import PROGRAMS, Model, Place
from aitorrentd.api import Chunk, GenerateRequest
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.agent_programs import agent
from tests.support.clients.sealed import PORT, sealed
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.nodes import NodeFactory
from tests.support.shards.agent_model import agent_model
from tests.support.shards.shards_nodes import shards_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
END = Chunk("", done=True, reason="stop", prompt_tokens=3, completion_tokens=4)
QUIET = ("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE")


class Reading(ScriptedBackend):
    """Reads a file, and tells what a tool found."""

    path = Path()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        turns = request.messages or ()
        if turns[-1].role == "tool":
            self.script = (Chunk(f"It says: {turns[-1].content}"), END)
        elif request.tools:
            arguments = json.dumps({"filePath": str(self.path)})
            self.script = (Chunk("", tool_calls=(ToolCall(name="read", arguments=arguments),)), END)
        else:
            self.script = (Chunk("A title"), END)
        async for chunk in super().generate(request):
            yield chunk


async def told(socket: Path, home: Path, model: str) -> tuple[int, str, str]:
    """Exit status, output and errors of opencode, asked about a file."""
    start = PROGRAMS["opencode"].start(Place(f"http://127.0.0.1:{PORT}"), Model(model, 65_536))
    env = {"PATH": os.environ["PATH"], "HOME": str(home), **start.environment}
    command = [str(await agent("opencode")), *start.arguments, "run", "what does the file say?"]
    env |= dict.fromkeys(QUIET, "1")
    return await sealed(command, socket, cwd=home, env=env, wait_s=400)


async def test_one_tool_call(node_factory: NodeFactory, tmp_path: Path) -> None:
    socket = tmp_path / "http.sock"
    backend = Reading(models=("org/m",))
    backend.path = tmp_path / "secret.txt"
    backend.path.write_text("a mountain of 8611 m\n")
    await gateway_node(node_factory, backend, unix_socket=str(socket))
    status, out, err = await told(socket, tmp_path, "org/m")
    assert (status, "a mountain of 8611 m" in out) == (0, True), f"{out}\n{err}"
    results = [turn for r in backend.requests for turn in r.messages or () if turn.role == "tool"]
    assert "a mountain of 8611 m" in results[0].content


async def test_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("a mountain of 8611 m\n")
    arguments = {"filePath": str(tmp_path / "secret.txt")}
    call = json.dumps({"name": "read", "arguments": arguments})
    path = agent_model(tmp_path / "m", call=call, answer="It is said.")
    nodes = await shards_network(node_factory, path, ["0-1", "1-2", "2-3"])
    socket = tmp_path / "http.sock"
    nodes[0].kernel.configure("http", {"enabled": True, "port": 0, "unix_socket": str(socket)})
    await nodes[0].kernel.enable("http")
    status, out, err = await told(socket, tmp_path, "m")
    assert (status, "It is said." in out) == (0, True), f"{out}\n{err}"
    assert "secret.txt" in out + err  # it says what it reads
