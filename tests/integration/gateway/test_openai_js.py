"""OpenAI's own JavaScript client."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aitorrentd.api import Busy, Chunk, GenerateRequest, InvalidParams, ModelView, Unavailable
from aitorrentd.api.models.logprobs import TokenLogprob
from aitorrentd.api.models.tools import ToolCall
from tests.integration.gateway.test_openai_embeddings import Embedder
from tests.support.clients.javascript_programs import run_javascript
from tests.support.gateway_nodes import code_blocks, gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

PROGRAM = """
import OpenAI from 'openai'
const [baseURL] = process.argv.slice(2)
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 1 })
const model = 'm'
const messages = [{ role: 'user', content: 'hello' }]
const parameters = { type: 'object', properties: {} }
const tools = [{ type: 'function', function: { name: 'weather', parameters } }]
const found = { errors: [], streamed: '', reasons: [], events: [] }
for await (const each of client.models.list()) (found.models ??= []).push(each.id)

found.whole = await client.chat.completions.create({ model, messages, n: 2, seed: -1,
  stop: ['x', 'y'], logprobs: true, top_logprobs: 1, logit_bias: { 5: 1 } })
const stream = await client.chat.completions.create({ model, messages, stream: true,
  stream_options: { include_usage: true } })
for await (const chunk of stream) {
  found.usage = chunk.usage ?? found.usage
  for (const choice of chunk.choices) {
    found.streamed += choice.delta.content ?? ''
    found.reasons.push(choice.finish_reason)
  }
}
found.called = await client.chat.completions.stream({ model, messages, tools }).finalMessage()
const turns = [...messages, found.called,
  { role: 'tool', tool_call_id: found.called.tool_calls[0].id, content: 'sun' }]
found.after = (await client.chat.completions.create({ model, messages: turns, tools })).choices[0]

found.parsed = (await client.chat.completions.parse({ model, messages, response_format: {
  type: 'json_schema', json_schema: { name: 'n', strict: true, schema: { type: 'object' } } } }))
  .choices[0].message.content
found.legacy = (await client.completions.create({ model, prompt: 'a', logprobs: 1 })).choices[0]

found.base64 = (await client.embeddings.create({ model: 'e', input: ['one'] })).data[0].embedding
found.floats = (await client.embeddings.create({ model: 'e', input: ['one'],
  encoding_format: 'float' })).data[0].embedding

found.response = (await client.responses.create({ model, input: 'hello' })).output_text
const flat = [{ type: 'function', name: 'weather', parameters, strict: false }]
const events = client.responses.stream({ model, input: 'hello', tools: flat })
for await (const event of events) found.events.push(event.type)
found.output = (await events.finalResponse()).output.map(item => item.type)

const failing = [
  () => client.chat.completions.create({ model: 'gone', messages }),
  () => client.completions.create({ model, prompt: 'a', echo: true }),
  () => client.responses.create({ model, input: 'a', previous_response_id: 'resp_1' }),
  () => client.embeddings.create({ model: 'e', input: [[1, 2]] }),
  () => client.chat.completions.create({ model, messages: [{ role: 'user', content: 'long' }] }),
  () => client.chat.completions.create({ model, messages: [{ role: 'user', content: 'busy' }] }),
  () => client.chat.completions.create({ model, messages: [{ role: 'user', content: 'lost' }] }),
  () => new OpenAI({ baseURL, apiKey: 'ait_' + 'x'.repeat(43) }).models.list(),
]
for (const call of failing)
  await call().catch(e => found.errors.push([e.constructor.name, e.status, e.code, !!e.requestID]))
const late = await client.chat.completions.create({ model, stream: true,
  messages: [{ role: 'user', content: 'late' }] })
try { for await (const _ of late); } catch (e) { found.late = [e.constructor.name, e.message] }
console.log(JSON.stringify(found))
"""
END = Chunk("", done=True, reason="stop", prompt_tokens=3, completion_tokens=2)


class Everything(Embedder):
    """Answers, calls the tools that it is offered, and fails as it is told."""

    async def models(self) -> Sequence[ModelView]:
        return [ModelView("m", "f")]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        last = (request.messages or (None,))[-1]
        match last.content if last else "":
            case "long":
                raise InvalidParams("too long", prompt_tokens=9, context=8)
            case "busy":
                raise Busy("full")
            case "lost":
                raise Unavailable("no peer holds layers 4-8 of m")
            case "late":
                yield Chunk("so ")
                raise Unavailable("no peer holds layers 4-8 of m")
        token = TokenLogprob("{", -0.5, 5, b"{", (TokenLogprob("{", -0.5, 5, b"{"),))
        asked = (token,) if request.params.logprobs else ()
        if request.tools and last and last.role == "user":
            yield Chunk("", tool_calls=(ToolCall(name="weather", arguments='{"at":"B"}'),))
        else:
            yield Chunk("{", logprobs=asked)
            yield Chunk("}", logprobs=asked)
        yield END


async def test_the_javascript_client(node_factory: NodeFactory) -> None:
    backend = Everything()
    _, address = await gateway_node(node_factory, backend)
    found: dict[str, Any] = json.loads(await run_javascript(PROGRAM, f"http://{address}/v1"))
    assert found["models"] == ["e", "m"]
    both = found["whole"]["choices"]
    assert [(each["index"], each["message"]["content"]) for each in both] == [(0, "{}"), (1, "{}")]
    assert [each["logprob"] for each in both[1]["logprobs"]["content"]] == [-0.5, -0.5]
    assert found["whole"]["usage"]["completion_tokens"] == 4
    params = backend.requests[0].params
    assert (params.stop, params.logit_bias) == (("x", "y"), {5: 1.0})
    assert (found["streamed"], found["reasons"][-1]) == ("{}", "stop")
    assert found["usage"]["total_tokens"] == 5
    (call,) = found["called"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"at":"B"}'}
    assert found["after"]["message"]["content"] == "{}"
    assert found["parsed"] == "{}"
    assert found["legacy"]["logprobs"]["token_logprobs"] == [-0.5, -0.5]
    assert found["base64"] == found["floats"] == [3, 0.3333333432674408]
    assert found["response"] == "{}"
    assert (found["events"][0], found["events"][-1]) == ("response.created", "response.completed")
    assert found["output"] == ["function_call"]
    assert found["errors"] == [
        ["NotFoundError", 404, "model_not_found", True],
        ["BadRequestError", 400, "unsupported_value", True],
        ["BadRequestError", 400, "previous_response_not_found", True],
        ["BadRequestError", 400, "invalid_value", True],
        ["BadRequestError", 400, "context_length_exceeded", True],
        ["RateLimitError", 429, "busy", True],
        ["InternalServerError", 503, "unavailable", True],
        ["AuthenticationError", 401, "denied", True],
    ]
    assert found["late"] == ["APIError", "no peer holds layers 4-8 of m"]
    asked = [(r.messages or ())[-1].content for r in backend.requests if r.messages]
    # the client repeats what is busy, and not what is lost
    assert [asked.count(word) for word in ("busy", "lost", "long")] == [2, 1, 1]


async def test_the_snippet_of_the_documentation(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", models=("demo",)))
    (code,) = code_blocks("openai", "js")
    assert await run_javascript(code.replace("127.0.0.1:8000", address)) == "one two\n"
