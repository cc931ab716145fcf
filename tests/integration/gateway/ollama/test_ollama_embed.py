"""Embeddings in the Ollama API, with Ollama's Python client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import ollama
import pytest
from ollama import AsyncClient

from aitorrentd.api import Embeddings, EmbedRequest, InvalidParams, ModelView, NotFound
from aitorrentd.api.models.embeddings import vector
from tests.support.clients.raw_http import exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory


class Embedder(FakeBackend):
    """Turns a text into its length and its number in the request."""

    def __init__(self) -> None:
        super().__init__("f")
        self.embedded: list[EmbedRequest] = []

    async def embedding_models(self) -> Sequence[ModelView]:
        return [ModelView("mini:latest", "f", 100, "bert", 256)]

    async def embed(self, request: EmbedRequest) -> Embeddings:
        if request.model not in ("mini:latest", "m"):
            raise NotFound(f"f has no {request.model!r}")
        self.embedded.append(request)
        if any(len(text) > 256 for text in request.texts) and not request.truncate:
            raise InvalidParams("a text has 300 tokens, and the model takes 256")
        vectors = tuple(vector([len(text), n]) for n, text in enumerate(request.texts))
        return Embeddings(vectors, 7)


async def test_embeddings_with_the_sdk(node_factory: NodeFactory) -> None:
    backend = Embedder()
    _, address = await gateway_node(node_factory, backend)
    async with AsyncClient(host=f"http://{address}", trust_env=False) as client:
        assert [m.model for m in (await client.list()).models] == ["m:latest", "mini:latest"]
        assert (await client.show("mini")).capabilities == ["embedding"]
        for name in ("mini", "mini:latest", "m:latest"):
            found = await client.embed(name, ["one", "twenty"], dimensions=2)
            assert found.embeddings == [[3.0, 0.0], [6.0, 1.0]]
            assert (found.model, found.prompt_eval_count) == (name, 7)
            assert found.total_duration is not None
        assert [request.model for request in backend.embedded] == ["mini:latest"] * 2 + ["m"]
        assert (await client.embed("mini", "one")).embeddings == [[3.0, 0.0]]
        assert (await client.embed("mini", "")).embeddings == []
        assert (await client.embeddings("mini", "four")).embedding == [4.0, 0.0]
        assert (await client.embeddings("mini", "")).embedding == []
        assert (await client.embed("mini", "x" * 300)).embeddings == [[300.0, 0.0]]
        assert backend.embedded[-1].truncate
        with pytest.raises(ollama.ResponseError, match="the model takes 256") as long:
            await client.embed("mini", "x" * 300, truncate=False)
        assert long.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="model 'gone' not found") as missing:
            await client.embed("gone", "one")
        assert missing.value.status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 3}, "dimensions is 3, but mini"),
        ({"input": "a", "truncate": "no"}, "truncate"),
        ({"input": ["a"] * 5000}, "texts"),
        ({"input": "a", "options": {"seed": "x"}}, "options.seed"),
    ],
)
async def test_what_is_wrong_is_named(
    node_factory: NodeFactory, fields: dict[str, Any], param: str
) -> None:
    _, address = await gateway_node(node_factory, Embedder())
    body = json.dumps({"model": "mini", **fields}).encode()
    sent = request("POST", "/api/embed", {"Content-Type": "application/json"}, body)
    answer = await exchange(address, sent)
    assert (answer.status, json.loads(answer.body)["error"].startswith(param)) == (400, True)
