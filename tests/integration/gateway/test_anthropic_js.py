"""Anthropic's own JavaScript client."""

from __future__ import annotations

import json
from typing import Any

from aitorrentd.api import Chunk
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.javascript_programs import run_javascript
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.nodes import NodeFactory

PROGRAM = """
import Anthropic from '@anthropic-ai/sdk'
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema'
const client = new Anthropic({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 0 })
const messages = [{ role: 'user', content: 'hello' }]
const asked = { model: 'm', max_tokens: 9, messages, thinking: { type: 'adaptive' } }
const tools = [{ name: 'look', input_schema: { type: 'object' } }]
const found = { models: [], kinds: [] }
for await (const model of client.models.list()) found.models.push(model.id)
found.whole = await client.messages.create({ ...asked, tools })
const stream = client.messages.stream({ ...asked, tools })
for await (const event of stream) found.kinds.push(event.type)
found.final = await stream.finalMessage()
const inputSchema = { type: 'object', properties: { at: { type: 'string' } } }
const look = betaTool({ name: 'look', description: 'looks', inputSchema, run: () => 'sunny' })
const runner = client.beta.messages.toolRunner({ ...asked, tools: [look], max_iterations: 2 })
found.runs = 0
for await (const message of runner) found.runs += 1
await client.messages.create({ ...asked, model: 'gone' }).catch(error => {
  found.error = [error.status, error.constructor.name, error.requestID, error.error.error.type]
})
console.log(JSON.stringify(found))
"""


async def test_the_javascript_client(node_factory: NodeFactory) -> None:
    call = ToolCall(id="toolu_1", name="look", arguments='{"at": "ä"}')
    backend = ScriptedBackend(
        Chunk("", thinking="hm"),
        Chunk('Hé "\n\u2028'),
        Chunk("", tool_calls=(call,)),
        Chunk("", done=True, reason="tool_calls", prompt_tokens=3, completion_tokens=2),
    )
    _, address = await gateway_node(node_factory, backend)
    found: dict[str, Any] = json.loads(await run_javascript(PROGRAM, f"http://{address}"))
    assert found["models"] == ["m"]
    content = found["whole"]["content"]
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use"]
    assert (content[1]["text"], content[2]["input"]) == ('Hé "\n\u2028', {"at": "ä"})
    assert found["final"]["content"] == content
    assert found["final"]["usage"]["input_tokens"] == 3
    assert (found["kinds"][0], found["kinds"][-1]) == ("message_start", "message_stop")
    assert found["runs"] == 2  # each with the whole conversation, as the server keeps none
    turns = backend.requests[-1].messages or ()
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    status, name, ident, kind = found["error"]
    assert (status, name, kind) == (404, "NotFoundError", "not_found_error")
    assert ident.startswith("req_")
