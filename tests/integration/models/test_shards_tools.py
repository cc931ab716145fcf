"""Tools and reasoning over a model with random weights on three nodes, and through a peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from aitorrentd.api import INFERENCE, Chunk, GenerateRequest
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory
from tests.support.shards.models import make_model, make_tokenizer
from tests.support.shards.shards_nodes import shards_network

TEMPLATE = """{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor -%}
{%- for m in messages %}[{{ m.role }}{{ ' ' + m.name if m.name }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor -%}
{% endfor -%}[assistant]{{ '<think>' if enable_thinking else '<think></think>' }}"""
AGE = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["age"],
    "additionalProperties": False,
}
TOOLS = [{"name": "look", "parameters": AGE}, {"name": "stop"}]


def model(folder: Path) -> Path:
    """A model whose tokenizer has the tags as tokens, as Qwen 3 has them."""
    path = make_model(folder, context=1024)
    tokenizer = make_tokenizer(310)
    tags = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in tags])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def asked(*more: dict[str, Any], **fields: Any) -> GenerateRequest:
    params: dict[str, Any] = {"max_tokens": 120, "temperature": 1.0} | fields.pop("params", {})
    messages = [{"role": "user", "content": "hi"}, *more]
    usual = {"model": "m", "messages": messages, "tools": TOOLS, "params": params}
    return GenerateRequest.model_validate(usual | fields)


async def answer(node: Node, request: GenerateRequest, backend: str) -> list[Chunk]:
    chunks = node.service(INFERENCE).generate(request, backend=backend)
    return [chunk async for chunk in chunks]


def check(chunks: list[Chunk], name: str = "") -> dict[str, Any]:
    """The one call of an answer, as a later request has it."""
    (call,) = (call for chunk in chunks for call in chunk.tool_calls)
    assert chunks[-1].reason == "tool_calls"
    assert "".join(chunk.text for chunk in chunks) == ""
    arguments = json.loads(call.arguments)
    assert call.name == name or not name
    if call.name == "look":
        assert 10 <= arguments.pop("age") <= 99
    assert arguments == {}
    return call.model_dump()


async def test_tools_and_reasoning_over_three_nodes_and_a_peer(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    nodes = await shards_network(node_factory, model(tmp_path / "m"), ["0-2", "2-4", "4-6"])
    here, there = (nodes[0], "shards"), (nodes[1], f"peer:{nodes[0].id}")
    one = {"parallel_tool_calls": False}
    for seed in range(10):
        required = asked(tool_choice="required", params={"seed": seed}, **one)
        call = check(await answer(here[0], required, here[1]))
    named = asked(tool_choice={"name": "look"}, params={"seed": 3}, **one)
    found = await answer(there[0], named, there[1])
    call = check(found, "look")
    assert len({(s.start, s.end) for s in found[-1].stages}) == 3
    parts = [part for chunk in found for part in chunk.call_parts]
    assert len(parts) > 3  # they come over the peer as the model writes them
    assert "".join(part.arguments for part in parts) == call["arguments"]
    assert [(part.id, part.name) for part in parts if part.name] == [(call["id"], "look")]
    turns = ({"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "18"})
    later = asked(*turns, tools=[], params={"max_tokens": 8, "think": False})
    last = (await answer(here[0], later, here[1]))[-1]
    for node, backend in (here, there):
        counted = await node.service(INFERENCE).count_tokens(later, backend=backend)
        assert counted == last.prompt_tokens
    goes_on = {313: -100, 257: -100}  # neither the closing tag nor the end of the answer
    thinking = asked(tools=[], params={"max_tokens": 12, "think": True, "logit_bias": goes_on})
    for node, backend in (here, there):
        thoughts = await answer(node, thinking, backend)
        assert "".join(chunk.text for chunk in thoughts) == ""
        assert "".join(chunk.thinking for chunk in thoughts)
    # The tag that closes the reasoning, then text.
    closing = asked(tools=[], params={"max_tokens": 1, "think": True, "logit_bias": {313: 100}})
    closed = await answer(here[0], closing, here[1])
    assert ["".join(c.text + c.thinking for c in closed), closed[-1].completion_tokens] == ["", 1]
