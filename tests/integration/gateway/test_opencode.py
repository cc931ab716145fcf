"""opencode, started by what `aitorrentctl launch` tells it, with no internet: it calls a tool."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aitorrent_gateway.launching.programs import PROGRAMS, Model, Place
from tests.support.clients.agent_programs import agent
from tests.support.clients.sealed import PORT, sealed
from tests.support.nodes import NodeFactory
from tests.support.shards.agent_model import agent_model
from tests.support.shards.shards_nodes import shards_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
QUIET = ("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE")


async def told(socket: Path, home: Path, model: str) -> tuple[int, str, str]:
    """Exit status, output and errors of opencode, asked about a file."""
    start = PROGRAMS["opencode"].start(Place(f"http://127.0.0.1:{PORT}"), Model(model, 65_536))
    env = {"PATH": os.environ["PATH"], "HOME": str(home), **start.environment}
    command = [str(await agent("opencode")), *start.arguments, "run", "what does the file say?"]
    env |= dict.fromkeys(QUIET, "1")
    return await sealed(command, socket, cwd=home, env=env, wait_s=400)


async def test_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    """The model gives its answer only after the result of a tool."""
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
