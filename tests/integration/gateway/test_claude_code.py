"""Claude Code itself, with no internet: it answers, and calls a tool."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from aitorrentd.api import (
    AitorrentError,
    Chunk,
    GenerateRequest,
    InvalidParams,
    Message,
    Unavailable,
)
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.agent_programs import agent
from tests.support.clients.sealed import PORT, sealed
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory
from tests.support.shards.agent_model import agent_model
from tests.support.shards.shards_nodes import shards_network

ENVIRON = {
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{PORT}",
    "ANTHROPIC_AUTH_TOKEN": "none",
    "ANTHROPIC_MODEL": "m",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


async def told(
    factory: NodeFactory, backend: FakeBackend, home: Path, *words: str
) -> tuple[int, str, str]:
    """Exit status, output and errors of Claude Code with this prompt."""
    socket = home / "http.sock"
    await gateway_node(factory, backend, unix_socket=str(socket))
    env = {"PATH": os.environ["PATH"], "HOME": str(home), **ENVIRON}
    return await sealed([str(await agent("claude")), "-p", *words], socket, cwd=home, env=env)


class Reading(FakeBackend):
    """Reads a file with the tool Read, then tells what it got."""

    def __init__(self, path: Path) -> None:
        super().__init__("f")
        self._path = path

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        last = self.turns()[-1]
        if last.role == "tool":
            yield Chunk(f"It says: {last.content}")
            yield Chunk("", done=True, reason="stop", prompt_tokens=9, completion_tokens=3)
            return
        call = ToolCall(id="toolu_1", name="Read", arguments=f'{{"file_path": "{self._path}"}}')
        yield Chunk("I look.")
        yield Chunk("", done=True, reason="tool_calls", tool_calls=(call,))

    def turns(self) -> tuple[Message, ...]:
        """The conversation of the last request."""
        return self.requests[-1].messages or ()


async def test_one_answer(node_factory: NodeFactory, tmp_path: Path) -> None:
    backend = FakeBackend("f", words=("Hello ", "there"))
    rc, out, err = await told(node_factory, backend, tmp_path, "say hello")
    assert (rc, out.strip()) == (0, "Hello there"), err
    (request,) = backend.requests
    system, user = request.messages or ()
    assert (system.role, user.role) == ("system", "user")
    assert "say hello" in user.content
    assert "Read" in {tool.name for tool in request.tools}


async def test_one_tool_call(node_factory: NodeFactory, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a mountain of 8611 m\n")
    backend = Reading(secret)
    rc, out, err = await told(
        node_factory, backend, tmp_path, "what does the file say?", "--allowedTools", "Read"
    )
    assert (rc, "It says:" in out, "a mountain of 8611 m" in out) == (0, True, True), err
    call, result = [turn for turn in backend.turns() if turn.tool_calls or turn.tool_call_id]
    assert (call.role, call.content) == ("assistant", "I look.")
    assert (result.tool_call_id, result.tool_name) == (call.tool_calls[0].id, "Read")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InvalidParams("long", prompt_tokens=14_000, context=8_000), "Prompt is too long"),
        (Unavailable("no peer holds layers 4-8 of m"), "no peer holds layers 4-8 of m"),
    ],
)
async def test_it_says_at_once_why_there_is_no_answer(
    node_factory: NodeFactory, tmp_path: Path, error: AitorrentError, said: str
) -> None:
    backend = FakeBackend("f", words=(), fails=error)
    rc, out, err = await told(node_factory, backend, tmp_path, "say hello")
    assert (rc, said in out) == (1, True), err
    assert len(backend.requests) == 1


async def test_an_empty_answer_is_no_error(node_factory: NodeFactory, tmp_path: Path) -> None:
    rc, out, err = await told(node_factory, FakeBackend("f", words=()), tmp_path, "say hello")
    assert (rc, out.strip()) == (0, ""), err


@pytest.mark.slow
@pytest.mark.timeout(500)
async def test_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    """Its 50 kB of instructions and tools go through three nodes, twice; the call that comes back
    is one that the grammar of the tool allows, and it is run."""
    secret = tmp_path / "secret.txt"
    secret.write_text("a mountain of 8611 m\n")
    call = json.dumps({"name": "Read", "arguments": {"file_path": str(secret)}})
    path = agent_model(tmp_path / "m", call=call, answer="It is said.")
    nodes = await shards_network(node_factory, path, ["0-1", "1-2", "2-3"])
    socket = tmp_path / "http.sock"
    nodes[0].kernel.configure("http", {"enabled": True, "port": 0, "unix_socket": str(socket)})
    await nodes[0].kernel.enable("http")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **ENVIRON}
    command = [str(await agent("claude")), "-p", "what does the file say?"]
    command += ["--allowedTools", "Read", "--verbose", "--output-format", "stream-json"]
    rc, out, err = await sealed(command, socket, cwd=tmp_path, env=env, wait_s=400)
    assert rc == 0, f"{out}\n{err}"
    said = [json.loads(line) for line in out.splitlines()]
    (result,) = (each for each in said if each["type"] == "result")
    assert (result["result"].strip(), result["num_turns"]) == ("It is said.", 2)
    assert [each["type"] for each in said if each["type"] in ("assistant", "user")] == [
        *("assistant", "user", "assistant")
    ]
    assert "a mountain of 8611 m" in out  # what the tool found
    assert result["usage"]["input_tokens"] > 10_000
