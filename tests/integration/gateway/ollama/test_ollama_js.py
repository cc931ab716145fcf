"""Ollama's own JavaScript client."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.gateway.ollama.test_ollama_stream import Full
from tests.support.clients.javascript_programs import run_javascript
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token
from tests.support.nodes import NodeFactory

PROGRAM = """
import { Ollama } from 'ollama'
const [host, token] = process.argv.slice(2)
const client = new Ollama({ host })
const operator = new Ollama({ host, headers: { Authorization: `Bearer ${token}` } })
const model = 'm'
const messages = [{ role: 'user', content: 'hello' }]
const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }]
const found = { errors: [], streamed: [], ends: [] }
found.models = (await client.list()).models.map(each => each.name)
found.shown = (await client.show({ model })).model_info['qwen3.context_length']
found.loaded = (await client.ps()).models.map(each => new Date(each.expires_at) > new Date())
found.version = (await client.version()).version
found.whole = (await client.chat({ model, messages, options: { num_ctx: 4096 } })).message
for await (const part of await client.chat({ model, messages, tools, stream: true })) {
  found.streamed.push(part.message)
  found.ends.push(part.done_reason)
}
found.generated = await client.generate({ model, prompt: 'a', images: [], format: '' })
const failing = [
  () => client.chat({ model: 'gone', messages }),
  () => client.chat({ model: 'gone', messages, stream: true }),
  () => client.pull({ model: 'org/model' }),
  () => operator.pull({ model: 'org/model' }),
  () => client.create({ model: 'n', from: 'm' }),
  () => client.delete({ model }),
]
for (const call of failing)
  await call().catch(error => found.errors.push([error.status_code, error.message]))
console.log(JSON.stringify(found))
"""


async def test_the_javascript_client(node_factory: NodeFactory) -> None:
    backend = Full("f")
    node, address = await gateway_node(node_factory, backend)
    out = await run_javascript(PROGRAM, f"http://{address}", await new_token(node, "operate"))
    found: dict[str, Any] = json.loads(out)
    assert found["models"] == ["m:latest"]
    assert (found["shown"], found["loaded"], found["version"]) == (4096, [True], "0.17.6")
    assert found["whole"]["content"] == 'Hé "\n\u2028'
    assert "".join(part["content"] for part in found["streamed"]) == 'Hé "\n\u2028'
    calls = [call for part in found["streamed"] for call in part.get("tool_calls", ())]
    assert [call["function"]["arguments"] for call in calls] == [{"a": 1}]
    assert found["ends"][-1] == "stop"
    assert found["generated"]["context"] == [1, 2, 3]
    assert [status for status, _ in found["errors"]] == [404, 404, 401, 503, 501, 401]
    texts = [text for _, text in found["errors"]]
    assert texts[0].startswith("model 'gone' not found")
    assert texts[2].startswith("unauthorized: ")
    assert "plugins.catalogue.servers" in texts[3]
