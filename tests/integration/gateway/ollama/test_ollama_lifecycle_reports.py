"""What users reported of programs that load, unload, copy and delete models over Ollama's API.

Each case is a small input of the kind in the report that its name links to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from aitorrentd.api import HeldLayers, ModelView
from tests.integration.gateway.test_aliases import HELLO, JSON
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token
from tests.support.inference_fakes import FakeBackend, node_id
from tests.support.nodes import NodeFactory


class Memory(FakeBackend):
    """Keeps models in memory, and tells what it was asked for."""

    def __init__(self, *models: str) -> None:
        super().__init__("f", models)
        self.there = set(models)
        self.leaves: dict[str, float | None] = {}

    async def models(self) -> Sequence[ModelView]:
        part = HeldLayers(node_id(1), 0, 4, rss_bytes=2**20)
        return [
            ModelView(
                name,
                self.name,
                layers=(part,) if name in self.there else (),
                is_resting=name not in self.there,
                leaves_s=self.leaves.get(name),
            )
            for name in self.model_names
        ]

    async def load(self, model: str) -> None:
        self.there.add(model)

    async def unload(self, model: str) -> None:
        self.there.discard(model)

    async def keep(self, model: str, idle_s: float | None) -> None:
        self.leaves[model] = idle_s


class Client:
    def __init__(self, address: str, token: str = "") -> None:
        self.address = address
        self._headers = JSON | ({"Authorization": f"Bearer {token}"} if token else {})

    async def send(self, path: str, method: str = "POST", **fields: Any) -> Answer:
        body = json.dumps(fields).encode()
        return await exchange(self.address, request(method, path, self._headers, body))

    async def loaded(self) -> list[dict[str, Any]]:
        answer = await exchange(self.address, request("GET", "/api/ps"))
        rows: list[dict[str, Any]] = json.loads(answer.body)["models"]
        return rows


async def operator(factory: NodeFactory, backend: FakeBackend) -> Client:
    node, address = await gateway_node(factory, backend)
    return Client(address, await new_token(node, "operate"))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        # https://github.com/awaescher/OllamaSharp/issues/230: nothing but these two fields
        ({}, "/api/generate"),
        # https://github.com/open-webui/open-webui/issues/670: with an empty prompt, not streamed
        ({"prompt": "", "stream": False}, "/api/generate"),
        # https://github.com/sammcj/gollama/issues/115: a conversation without messages
        ({"messages": []}, "/api/chat"),
    ],
)
async def test_programs_unload_in_these_ways(
    node_factory: NodeFactory, fields: dict[str, Any], path: str
) -> None:
    backend = Memory("m")
    client = await operator(node_factory, backend)
    # https://github.com/valentinfrlch/ha-llmvision/pull/625: forms send numbers as text
    for zero in (0, "0", "0s", "0m"):
        backend.there.add("m")
        answer = await client.send(path, model="m", keep_alive=zero, **fields)
        (line,) = answer.body.splitlines()
        said = json.loads(line)
        assert (answer.status, said["done"], said["done_reason"]) == (200, True, "unload")
        assert "message" in said if path == "/api/chat" else said["response"] == ""
        assert not backend.there
    assert not backend.requests


async def test_minus_one_without_a_unit_keeps_a_model(node_factory: NodeFactory) -> None:
    """https://github.com/open-webui/open-webui/issues/753, karakeep-app/karakeep#2409,
    cloudstudio/ollama-laravel#41 and langchain-ai/langchainjs#6937: `missing unit in duration`;
    https://github.com/ollama/ollama/issues/10422: "-2m" is for ever."""
    backend = Memory("m")
    client = await operator(node_factory, backend)
    for value in (-1, "-1", "-1m", "-2m"):
        backend.leaves = {"m": 5.0}
        answer = await client.send("/api/chat", model="m", messages=HELLO, keep_alive=value)
        assert (answer.status, backend.leaves) == (200, {"m": None})
        (row,) = await client.loaded()
        assert row["expires_at"].startswith("9999-")


async def test_short_times_with_a_prompt_take_effect_after_the_answer(
    node_factory: NodeFactory,
) -> None:
    """https://github.com/open-webui/open-webui/issues/596: nothing that was tried had an effect."""
    backend = Memory("m")
    client = await operator(node_factory, backend)
    for value, seconds in ((0, 0), ("0s", 0), ("0m", 0), ("1s", 1), ("1m", 60), ("0", 0)):
        answer = await client.send("/api/generate", model="m", prompt="Why?", keep_alive=value)
        assert (answer.status, backend.leaves) == (200, {"m": seconds})
        assert "x-aitorrent-ignored" not in answer.headers
        assert json.loads(answer.body.splitlines()[-1])["done_reason"] == "stop"


async def test_all_models_are_unloaded_at_once(node_factory: NodeFactory) -> None:
    """https://github.com/d3v0ps-cloud/OllamaModelManager/pull/24: in parallel, then `/api/ps` is
    read again; its `expires_at` is counted down."""
    backend = Memory("a", "b", "c")
    backend.leaves = {"a": 90.0}
    client = await operator(node_factory, backend)
    rows = await client.loaded()
    assert [row["name"] for row in rows] == ["a:latest", "b:latest", "c:latest"]
    assert datetime.fromisoformat(rows[0]["expires_at"]).year < 9999
    await asyncio.gather(
        *(client.send("/api/generate", model=row["model"], keep_alive=0) for row in rows)
    )
    assert await client.loaded() == []


async def test_keep_alive_in_openais_dialect_is_told_to_be_ignored(
    node_factory: NodeFactory,
) -> None:
    """https://github.com/ollama/ollama/issues/11458: it was ignored without a word."""
    backend = Memory("m")
    client = await operator(node_factory, backend)
    answer = await client.send("/v1/chat/completions", model="m", messages=HELLO, keep_alive="24h")
    assert (answer.status, answer.headers["x-aitorrent-ignored"]) == (200, "keep_alive")
    assert not backend.leaves


async def test_name_of_a_copy_can_be_used_again(node_factory: NodeFactory) -> None:
    """https://github.com/jundot/omlx/issues/1321: an alias of a gone model stayed taken."""
    backend = Memory("a", "b")
    client = await operator(node_factory, backend)
    assert (await client.send("/api/copy", source="a", destination="work")).status == 200
    backend.model_names.remove("a")
    await asyncio.sleep(0)
    assert (await client.send("/api/chat", model="work", messages=HELLO)).status == 404
    assert (await client.send("/api/copy", source="b", destination="work")).status == 200
    answer = await client.send("/api/chat", model="work", messages=HELLO)
    assert (answer.status, backend.requests[-1].model) == (200, "b")


async def test_delete_takes_the_older_field(node_factory: NodeFactory) -> None:
    """https://github.com/n4ze3m/page-assist/issues/294: some send `name`, and got 403."""
    client = await operator(node_factory, Memory("m"))
    for field in ("name", "model"):
        assert (await client.send("/api/copy", source="m", destination="c")).status == 200
        assert (await client.send("/api/delete", "DELETE", **{field: "c"})).status == 200


async def test_long_names_are_refused_before_they_cannot_be_deleted(
    node_factory: NodeFactory,
) -> None:
    """https://github.com/infiniflow/ragflow/issues/409: a long name was cut, and stayed."""
    client = await operator(node_factory, Memory("m"))
    for length, status in ((80, 200), (81, 400), (257, 400)):
        name = "n" * length
        answer = await client.send("/api/copy", source="m", destination=name)
        assert answer.status == status
        answer = await client.send("/api/delete", "DELETE", model=name)
        assert (answer.status == 200) == (status == 200)


async def test_names_differ_in_case(node_factory: NodeFactory) -> None:
    """https://github.com/ollama/ollama/issues/6783: "exists already", and was not found."""
    backend = Memory("llama")
    client = await operator(node_factory, backend)
    assert (await client.send("/api/generate", model="Llama", keep_alive=0)).status == 404
    assert (await client.send("/api/copy", source="llama", destination="Llama")).status == 200
    for name in ("Llama", "llama", "Llama:latest"):
        assert (await client.send("/api/chat", model=name, messages=HELLO)).status == 200
        assert backend.requests[-1].model == "llama"
    # A copy is unloaded as the model that it is.
    assert (await client.send("/api/generate", model="Llama", keep_alive=0)).status == 200
    assert not backend.there


async def test_durations_that_are_none_are_refused(node_factory: NodeFactory) -> None:
    """https://github.com/ILikeAI/AlwaysReddy/pull/87: a wrong value gave a bare status 400."""
    client = await operator(node_factory, Memory("m"))
    answer = await client.send("/api/generate", model="m", keep_alive="five minutes")
    text = 'keep_alive is neither seconds nor a duration such as "5m"'
    assert (answer.status, json.loads(answer.body)["error"]) == (400, text)
