"""/v1/embeddings with OpenAI's own Python client, and what is refused."""

from __future__ import annotations

import json
from array import array
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import pytest
from openai import AsyncOpenAI

from aitorrentd.api import Embeddings, EmbedRequest, InvalidParams, ModelView
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory


class Embedder(FakeBackend):
    """Turns a text into its length and a third."""

    def __init__(self) -> None:
        super().__init__("f")
        self.embedded: list[EmbedRequest] = []
        self.times = 1
        "How often the vector repeats itself."

    async def embedding_models(self) -> Sequence[ModelView]:
        return [ModelView("e", "f")]

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.embedded.append(request)
        if "long" in request.texts:
            raise InvalidParams("text 0 has 9 tokens", prompt_tokens=9, context=8)
        if "strange" in request.texts:  # as a server whose errors have no `param`
            raise InvalidParams("no thanks", param="")
        made = tuple(array("f", [len(text), 1 / 3] * self.times) for text in request.texts)
        return Embeddings(made, tokens=7)


async def asked(address: str, **fields: Any) -> Answer:
    body = json.dumps({"model": "e", **fields}).encode()
    head = {"Content-Type": "application/json"}
    return await exchange(address, request("POST", "/v1/embeddings", head, body))


async def test_vectors_as_floats_and_in_base64_are_equal(node_factory: NodeFactory) -> None:
    backend = Embedder()
    _, address = await gateway_node(node_factory, backend)
    url = f"http://{address}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["e", "m"]
        assert (await client.models.retrieve("e")).id == "e"
        texts = ["one", "twelve"]
        # the SDK asks for base64 unless it is told otherwise
        made = await client.embeddings.create(model="e", input=texts, dimensions=2)
        plain = await client.embeddings.create(model="e", input=texts, encoding_format="float")
    third = array("f", [1 / 3])[0]
    assert [row.embedding for row in made.data] == [[3.0, third], [6.0, third]]
    assert [row.embedding for row in plain.data] == [row.embedding for row in made.data]
    assert [row.index for row in made.data] == [0, 1]
    assert (made.usage.prompt_tokens, made.usage.total_tokens, made.model) == (7, 7, "e")
    assert [(each.texts, each.dimensions) for each in backend.embedded] == [
        (("one", "twelve"), 2),
        (("one", "twelve"), None),
    ]
    raw = json.loads((await asked(address, input="one", encoding_format="base64")).body)
    assert b64decode(raw["data"][0]["embedding"]) == bytes.fromhex("00004040abaaaa3e")
    backend.times = 30_000  # written in a thread
    many = json.loads((await asked(address, input="one")).body)
    assert many["data"][0]["embedding"] == [3.0, third] * 30_000


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"input": [[1, 2], [3]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [1, 2]}, "input", "check_embedding_ctx_length=False"),
        ({"input": []}, "input", "at least one string"),
        ({"input": None}, "input", "a string or a list"),
        ({"input": {}}, "input", "a string or a list"),
        ({"input": ["a", None]}, "input[1]", "must be a string"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float, base64"),
        ({"input": "a", "dimensions": 0}, "dimensions", "at least 1"),
        ({"input": "strange"}, None, "no thanks"),
        ({"input": "a", "dimensions": 3}, "dimensions", "is 3, but e makes vectors of 2 numbers"),
        ({"input": "\ud800"}, "input[0]", "surrogate"),
        ({"input": "a", "model": 7}, "model", "must be a string"),
        ({"input": "long"}, "input", "9 tokens"),
        ({"input": "a", "model": "none"}, "model", "none"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_with_its_name(
    node_factory: NodeFactory, fields: dict[str, Any], param: str | None, text: str
) -> None:
    _, address = await gateway_node(node_factory, Embedder())
    answer = await asked(address, **fields)
    assert answer.status == (404 if text == "none" else 400)
    assert answer.error["param"] == param
    assert text in answer.error["message"]
    assert len(answer.error["message"]) < 300


async def test_a_model_that_only_chats_is_named_as_what_is_wrong(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", models=("m",)))
    answer = await asked(address, input="a", model="m")
    assert (answer.status, answer.error["param"]) == (400, "model")
