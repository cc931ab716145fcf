"""Copies of models: further names, in every dialect, also after a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitorrent_gateway.core.aliases import MAX_SAVED
from aitorrentd.node import Node
from tests.integration.gateway.test_aliases import HELLO, JSON, Embedder
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import called, new_token
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory


class Shop:
    """A node with the models m and n, as an operator sees it."""

    def __init__(self, node: Node, address: str, token: str) -> None:
        self.node, self.address = node, address
        self._headers = JSON | {"Authorization": f"Bearer {token}"}

    async def send(self, method: str, path: str, **fields: Any) -> Answer:
        body = json.dumps(fields).encode()
        return await exchange(self.address, request(method, path, self._headers, body))

    async def copy(self, source: str, destination: str) -> Answer:
        return await self.send("POST", "/api/copy", source=source, destination=destination)

    async def names(self) -> list[str]:
        answer = await exchange(self.address, request("GET", "/api/tags"))
        return [row["name"] for row in json.loads(answer.body)["models"]]


async def shop(factory: NodeFactory, backend: FakeBackend | None = None) -> Shop:
    node, address = await gateway_node(factory, backend or FakeBackend("f", ("m", "n")))
    return Shop(node, address, await new_token(node, "operate"))


def error_of(answer: Answer) -> str:
    text: str = json.loads(answer.body)["error"]
    return text


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/messages", {"messages": HELLO, "max_tokens": 9}),
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/embeddings", {"input": "hello"}),
        ("/api/chat", {"messages": HELLO, "stream": False}),
        ("/api/generate", {"prompt": "hello", "stream": False}),
        ("/api/embed", {"input": "hello"}),
        ("/api/show", {}),
    ],
)
async def test_a_copy_answers_in_every_dialect(
    node_factory: NodeFactory, path: str, fields: dict[str, Any]
) -> None:
    backend = Embedder("f", ("m", "n"))
    here = await shop(node_factory, backend)
    source = "e" if "embed" in path else "m"
    copied = await here.copy(f"{source}:latest", "my/copy:v1")
    assert (copied.status, copied.body) == (200, b"")
    answer = await here.send("POST", path, model="my/copy:v1", **fields)
    assert answer.status == 200
    if "embed" not in path and "show" not in path:
        assert backend.requests[-1].model == "m"


async def test_a_copy_is_listed_until_it_is_deleted_and_survives_a_restart(
    node_factory: NodeFactory,
) -> None:
    here = await shop(node_factory)
    assert (await here.copy("m", "c")).status == 200
    assert (await here.copy("c", "d")).status == 200  # of a copy: another name of the model
    expected = ["c:latest", "d:latest", "m:latest", "n:latest"]
    assert await here.names() == expected
    await here.node.kernel.restart("gateway")
    assert await here.names() == expected
    told = await called(here.node, "gateway.aliases")  # as `aitorrentctl launch` asks
    assert told == {"aliases": {"c": "m", "d": "m"}}
    assert (await here.copy("n", "c")).status == 200  # Ollama replaces, too
    assert (await here.send("DELETE", "/api/delete", model="c")).status == 200
    assert await here.names() == ["d:latest", "m:latest", "n:latest"]
    assert (await here.send("DELETE", "/api/delete", name="d:latest")).status == 200
    assert (await here.send("DELETE", "/api/delete", name="d:latest")).status == 404
    await here.node.kernel.restart("gateway")
    assert await here.names() == ["m:latest", "n:latest"]


async def test_copies_that_cannot_be_made(node_factory: NodeFactory) -> None:
    here = await shop(node_factory)
    gone = await here.copy("gone", "c")
    assert (gone.status, error_of(gone)) == (404, 'model "gone" not found')
    for name in ("../../etc/passwd", "a b", "é", "a\n", "a/b/c/d", ":v", "-a", "a" * 81, "a\x00"):
        wrong = await here.copy("m", name)
        assert (wrong.status, error_of(wrong).endswith("is invalid")) == (400, True), name
    for fields in ({}, {"source": "m"}, {"source": "m", "destination": ["c"]}, {"source": 1}):
        assert (await here.send("POST", "/api/copy", **fields)).status == 400
    taken = await here.copy("m", "n")
    assert (taken.status, error_of(taken)) == (
        409,
        "there is a model 'n' already; choose another name",
    )
    for name in ("m", "m:latest"):  # onto itself: as Ollama, no error
        assert (await here.copy("m", name)).status == 200
    assert await here.names() == ["m:latest", "n:latest"]


async def test_copies_are_limited(node_factory: NodeFactory) -> None:
    here = await shop(node_factory)
    for n in range(MAX_SAVED):
        assert (await here.copy("m", f"c{n}")).status == 200
    full = await here.copy("m", "more")
    assert (full.status, "delete one first" in error_of(full)) == (429, True)
    assert (await here.copy("n", "c0")).status == 200


async def test_names_of_the_settings_stay(node_factory: NodeFactory) -> None:
    here = await shop(node_factory)
    assert (await here.copy("m", "later")).status == 200
    here.node.kernel.configure("gateway", {"aliases": {"fixed": "m", "later": "n"}})
    await here.node.kernel.restart("gateway")
    for answer in (
        await here.copy("n", "fixed"),
        await here.send("DELETE", "/api/delete", model="fixed"),
        await here.send("DELETE", "/api/delete", model="later"),
    ):
        assert (answer.status, "plugins.gateway.aliases" in error_of(answer)) == (409, True)
