"""LangChain and LiteLLM, each in the dialects that it speaks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from aitorrentd.api import Chunk, GenerateRequest
from aitorrentd.api.models.tools import ToolCall
from tests.integration.gateway.test_openai_js import END, Everything
from tests.support.clients.python_programs import run_python
from tests.support.gateway_nodes import code_blocks, gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

LANGCHAIN: Final = """
import json, sys
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import BadRequestError
from pydantic import BaseModel

class Place(BaseModel):
    at: str

@tool
def weather(at: str) -> str:
    "The weather at a place."
    return "sun"

def calls(message):
    return [[call["name"], call["args"]] for call in message.tool_calls]

at = {"base_url": sys.argv[1], "api_key": "none"}
found = {}
for name in ("chat", "responses"):
    model = ChatOpenAI(model="m", use_responses_api=name == "responses", **at)
    whole = model.invoke("hello")
    parts = list(model.stream("hello"))
    tokens = whole.usage_metadata["total_tokens"]
    found[name] = [whole.text, "".join(part.text for part in parts), tokens]
    found[f"{name} structured"] = model.with_structured_output(Place).invoke("json").at
    with_tools = model.bind_tools([weather])
    called = with_tools.invoke("tool")
    streamed = None
    for part in with_tools.stream("tool"):
        streamed = part if streamed is None else streamed + part
    result = ToolMessage("sun", tool_call_id=called.tool_calls[0]["id"])
    after = with_tools.invoke([HumanMessage("tool"), called, result]).text
    found[f"{name} tools"] = [calls(called), calls(streamed), after]
likely = ChatOpenAI(model="m", **at).bind(logprobs=True, top_logprobs=1).invoke("hello")
found["logprobs"] = [each["logprob"] for each in likely.response_metadata["logprobs"]["content"]]
texts = OpenAIEmbeddings(model="e", check_embedding_ctx_length=False, **at)
found["vectors"] = texts.embed_documents(["one", "three"])
try:
    texts.client.create(model="e", input=[[1, 2]])  # what it sends without the option
except BadRequestError as e:
    found["refused"] = e.body["message"]
print(json.dumps(found))
"""
LITELLM: Final = """
import json, os, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
litellm.suppress_debug_info = True
url = sys.argv[1]
found = {}
function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
tools = [{"type": "function", "function": function}]

def asked(model, base, text, **more):
    return litellm.completion(model=model, api_base=base, api_key="none",
        messages=[{"role": "user", "content": text}], **more)

for model, base in (("openai/m", url + "/v1"), ("ollama_chat/m", url), ("ollama/m", url),
                    ("anthropic/m", url)):
    whole = asked(model, base, "hello")
    deltas = [part.choices[0].delta for part in asked(model, base, "hello", stream=True)]
    text = "".join(delta.content or "" for delta in deltas)
    found[model] = [whole.choices[0].message.content, text, whole.usage.total_tokens]
    if model != "ollama/m":
        (choice,) = asked(model, base, "tool", tools=tools).choices
        (call,) = choice.message.tool_calls
        arguments = json.loads(call.function.arguments)
        found[model] += [call.function.name, arguments, choice.finish_reason]
at = {"api_base": url + "/v1", "api_key": "none"}
found["vectors"] = litellm.embedding(model="openai/e", input=["one"], **at).data[0]["embedding"]
response = litellm.responses(model="openai/m", input="hello", **at)
found["response"] = response.output[0].content[0].text
for text in ("long", "busy", "lost"):
    try:
        asked("openai/m", url + "/v1", text, max_retries=0)
    except Exception as e:
        found[text] = type(e).__name__
print(json.dumps(found))
"""
THIRD: Final = 0.3333333432674408


class Versatile(Everything):
    """Also answers in JSON, where a conversation asks for it."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        last = (request.messages or (None,))[-1]
        if last and last.content == "json":
            call = ToolCall(name="Place", arguments='{"at":"B"}')
            yield Chunk("", tool_calls=(call,)) if request.tools else Chunk(call.arguments)
            yield END
            return
        async for chunk in super().generate(request):
            yield chunk


async def test_langchain(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, Versatile())
    found: dict[str, Any] = json.loads(await run_python(LANGCHAIN, f"http://{address}/v1"))
    for name in ("chat", "responses"):
        assert found[name] == ["{}", "{}", 5]
        assert found[f"{name} structured"] == "B"
        called = [["weather", {"at": "B"}]]
        assert found[f"{name} tools"] == [called, called, "{}"]
    assert found["logprobs"] == [-0.5, -0.5]
    assert found["vectors"] == [[3, THIRD], [5, THIRD]]
    assert "check_embedding_ctx_length=False" in found["refused"]


async def test_litellm(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, Versatile())
    found: dict[str, Any] = json.loads(await run_python(LITELLM, f"http://{address}"))
    for model in ("openai/m", "ollama_chat/m", "anthropic/m"):
        assert found[model] == ["{}", "{}", 5, "weather", {"at": "B"}, "tool_calls"]
    assert found["ollama/m"] == ["{}", "{}", 5]
    assert (found["vectors"], found["response"]) == ([3, THIRD], "{}")
    # it falls back to a model with a larger context on this class alone
    assert found["long"] == "ContextWindowExceededError"
    assert (found["busy"], found["lost"]) == ("RateLimitError", "ServiceUnavailableError")


@pytest.mark.parametrize("code", code_blocks("programs", "python"), ids=("langchain", "litellm"))
async def test_snippet_of_the_documentation(node_factory: NodeFactory, code: str) -> None:
    assert "http://127.0.0.1:8000" in code
    _, address = await gateway_node(node_factory, FakeBackend("f", models=("demo",)))
    assert await run_python(code.replace("127.0.0.1:8000", address)) == "one two\n"
