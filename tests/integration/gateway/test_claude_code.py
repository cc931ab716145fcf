"""Claude Code itself, with no internet: it answers, and calls a tool."""

from __future__ import annotations

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
