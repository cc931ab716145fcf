"""Codex, OpenAI's own agent, in a network namespace in which only the node can be reached."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

from openai import AsyncOpenAI

from aitorrentd.api import Chunk, GenerateRequest, InvalidParams
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.agent_programs import agent
from tests.support.clients.sealed import sealed
from tests.support.gateway_nodes import ScriptedBackend, code_blocks, gateway_node
from tests.support.http_nodes import called
from tests.support.nodes import NodeFactory
from tests.support.shards.agent_model import agent_model
from tests.support.shards.shards_nodes import shards_network

CONFIG: Final = code_blocks("openai", "toml")[0]
"The settings that docs/openai.md gives."
Told = tuple[int, str, str]
END: Final = Chunk("", done=True, reason="stop", prompt_tokens=3, completion_tokens=4)


class Agent(ScriptedBackend):
    """Looks into a file, and tells what a tool found."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        turns = request.messages or ()
        if turns[-1].role == "tool":
            word = turns[-1].content.split()[-1]
            self.script = (Chunk("", thinking="hm"), Chunk(f"It says {word}."), END)
        else:
            arguments = json.dumps({"cmd": "cat secret.txt"})
            self.script = (
                Chunk("I look. "),
                Chunk("", tool_calls=(ToolCall(name="exec_command", arguments=arguments),)),
                END,
            )
        async for chunk in super().generate(request):
            yield chunk


async def told(socket: Path, directory: Path, prompt: str, model: str = "demo") -> Told:
    """Exit status, output and errors of Codex with this prompt."""
    home, work = directory / "home", directory / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.replace('"demo"', f'"{model}"'))
    (work / "secret.txt").write_text("marzipan\n")
    command = [str(await agent("codex")), "exec", "--skip-git-repo-check"]
    command += ["--dangerously-bypass-approvals-and-sandbox", prompt]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home)}
    return await sealed(command, socket, cwd=work, env=env, wait_s=180)


async def beside(factory: NodeFactory, backend: ScriptedBackend, directory: Path) -> Path:
    """The socket of a node over a backend."""
    socket = directory / "http.sock"
    await gateway_node(factory, backend, unix_socket=str(socket))
    return socket


async def test_codex_answers_after_a_call_of_a_tool(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    backend = Agent(models=("demo",))
    socket = await beside(node_factory, backend, tmp_path)
    status, out, err = await told(socket, tmp_path, "what does secret.txt say?")
    assert (status, out.strip()) == (0, "It says marzipan."), err
    first, second = backend.requests
    assert [turn.role for turn in first.messages or ()][:2] == ["system", "user"]
    offered = [tool.name for tool in first.tools]
    assert "exec_command" in offered
    assert any("." in name for name in offered)  # functions in namespaces
    assert (second.messages or ())[-2].content == "I look. "


class Small(ScriptedBackend):
    """Has no room for any prompt."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        raise InvalidParams("the prompt has 9000 tokens", prompt_tokens=9000, context=512)
        yield


async def test_codex_says_when_the_context_is_too_small(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    backend = Small(models=("demo",))
    socket = await beside(node_factory, backend, tmp_path)
    status, out, err = await told(socket, tmp_path, "hi")
    assert (status, out, len(backend.requests)) == (1, "", 1)  # it does not repeat the request
    assert "ran out of room in the model's context window" in err


async def _calls(client: AsyncOpenAI, arguments: dict[str, Any]) -> None:
    """The call and its result go back and forth, whole and streamed, in both shapes."""
    schema = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
    function: Any = {"name": "exec_command", "parameters": schema}
    tools: Any = [{"type": "function", "function": function}]
    turns: list[Any] = [{"role": "user", "content": "hi"}]
    whole = await client.chat.completions.create(model="m", messages=turns, tools=tools)
    async with client.chat.completions.stream(model="m", messages=turns, tools=tools) as stream:
        streamed = await stream.get_final_completion()
    made: Any
    for choice in (whole.choices[0], streamed.choices[0]):
        assert choice.finish_reason == "tool_calls"
        (made,) = choice.message.tool_calls or (None,)
        assert json.loads(made.function.arguments) == arguments
    said = whole.choices[0].message
    turns += [said, {"role": "tool", "tool_call_id": made.id, "content": "done"}]
    after = await client.chat.completions.create(model="m", messages=turns, tools=tools)
    assert (after.choices[0].message.content, after.choices[0].finish_reason) == (
        "It is said.",
        "stop",
    )
    flat: Any = [{"type": "function", **function}]
    response = await client.responses.create(model="m", input="hi", tools=flat)
    (item,) = response.output
    assert item.type == "function_call"
    assert json.loads(item.arguments) == arguments


async def test_codex_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    """Its 40 kB of instructions and tools go through three nodes, twice; the call that comes back
    is one that the grammar of the tool allows, and it is run."""
    call = json.dumps({"name": "exec_command", "arguments": {"cmd": "cat secret.txt > said.txt"}})
    path = agent_model(tmp_path / "m", call=call, answer="It is said.")
    nodes = await shards_network(node_factory, path, ["0-1", "1-2", "2-3"])
    socket = tmp_path / "http.sock"
    nodes[0].kernel.configure("http", {"enabled": True, "port": 0, "unix_socket": str(socket)})
    await nodes[0].kernel.enable("http")
    address = (await called(nodes[0], "http.status"))["listening"][0]
    async with AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
        await _calls(client, json.loads(call)["arguments"])
    status, out, err = await told(socket, tmp_path, "what does secret.txt say?", "m")
    assert (status, out.strip()) == (0, "It is said."), err
    assert (tmp_path / "work" / "said.txt").read_text() == "marzipan\n"
