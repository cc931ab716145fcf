"""The clients of OpenAI and Anthropic, and LangChain, put calls together that arrive in parts."""

from __future__ import annotations

import json
from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from aitorrentd.api import Chunk
from aitorrentd.api.models.call_parts import CallPart
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.python_programs import run_python
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.nodes import NodeFactory

FIRST = ToolCall(id="call_1", name="look", arguments='{"at":"K\\u00f6ln \\"x\\"","n":1}')
SECOND = ToolCall(id="call_2", name="look", arguments="{}")
PIECES = ('{"at"', ':"K\\u00', 'f6ln \\"x', '\\"","n":1}')
FOUND = [("call_1", "look", {"at": 'Köln "x"', "n": 1}), ("call_2", "look", {})]
SCRIPT = (
    Chunk("I look."),
    Chunk("", call_parts=(CallPart("", "call_1", "look"),)),
    *(Chunk("", call_parts=(CallPart(piece),)) for piece in PIECES),
    Chunk("", tool_calls=(FIRST,), call_parts=(CallPart("{", "call_2", "look"),)),
    Chunk("", call_parts=(CallPart("}"),)),
    Chunk("", tool_calls=(SECOND,)),
    Chunk("", done=True, reason="tool_calls", prompt_tokens=3, completion_tokens=9),
)
ASKED: Any = [{"role": "user", "content": "hello"}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
LANGCHAIN = """
import json, sys
from langchain_openai import ChatOpenAI
def look(at: str, n: int) -> str:
    "Look."
    return ""
model = ChatOpenAI(model="m", base_url=sys.argv[1], api_key="none").bind_tools([look])
parts = list(model.stream("hello"))
chunks = [[c["index"], c["id"], c["name"], c["args"]] for p in parts for c in p.tool_call_chunks]
calls = [[c["id"], c["name"], c["args"]] for c in sum(parts[1:], parts[0]).tool_calls]
print(json.dumps([chunks, calls]))
"""


async def test_openai_by_chats_and_responses(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, ScriptedBackend(*SCRIPT))
    async with AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
        tools: Any = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
        whole = await client.chat.completions.create(model="m", messages=ASKED, tools=tools)
        async with client.chat.completions.stream(model="m", messages=ASKED, tools=tools) as stream:
            deltas = [
                event.arguments_delta
                async for event in stream
                if event.type == "tool_calls.function.arguments.delta"
            ]
            streamed = await stream.get_final_completion()
        assert [delta for delta in deltas if delta] == [*PIECES, "{", "}"]
        for choice in (whole.choices[0], streamed.choices[0]):
            made: Any = choice.message.tool_calls
            got = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in made]
            assert (got, choice.finish_reason) == (FOUND, "tool_calls")
        flat: Any = [{"type": "function", "name": "look", "parameters": SCHEMA, "strict": False}]
        async with client.responses.stream(model="m", input="hello", tools=flat) as events:
            pieces = [
                event.delta
                async for event in events
                if event.type == "response.function_call_arguments.delta"
            ]
            output: Any = (await events.get_final_response()).output
        assert pieces == [*PIECES, "{", "}"]
        assert [
            (item.call_id, item.name, json.loads(item.arguments)) for item in output[1:]
        ] == FOUND


async def test_anthropic(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, ScriptedBackend(*SCRIPT))
    tools: Any = [{"name": "look", "input_schema": SCHEMA}]
    async with AsyncAnthropic(base_url=f"http://{address}", api_key="none") as client:
        async with client.messages.stream(
            model="m", messages=ASKED, max_tokens=9, tools=tools
        ) as stream:
            pieces = [e.partial_json async for e in stream if e.type == "input_json"]
            streamed = await stream.get_final_message()
        whole = await client.messages.create(model="m", messages=ASKED, max_tokens=9, tools=tools)
    assert pieces == [*PIECES, "{", "}"]
    for message in (streamed, whole):
        used: Any = [block for block in message.content if block.type == "tool_use"]
        assert [(block.id, block.name, block.input) for block in used] == FOUND
        assert message.stop_reason == "tool_use"


async def test_langchain(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, ScriptedBackend(*SCRIPT))
    chunks, calls = json.loads(await run_python(LANGCHAIN, f"http://{address}/v1"))
    assert [args for *_, args in chunks if args] == [*PIECES, "{", "}"]
    assert [(index, ident, name) for index, ident, name, _ in chunks if name] == [
        (0, "call_1", "look"),
        (1, "call_2", "look"),
    ]
    assert [tuple(call) for call in calls] == FOUND
