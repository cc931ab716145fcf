"""Ollama's own port, and a node that is its own Ollama."""

from __future__ import annotations

import json
import socket
from functools import partial
from typing import Any

import pytest

from aitorrent_gateway.plugin import GatewayPlugin
from aitorrent_http.plugin import HttpPlugin
from aitorrent_inference.plugin import InferencePlugin
from aitorrent_ollama.plugin import OllamaPlugin
from aitorrent_openai.plugin import OpenaiPlugin
from aitorrentd.api.relays.loops import is_nearby
from aitorrentd.kernel.found import PluginSource
from aitorrentd.node import Node
from tests.support.clients.raw_http import exchange, request
from tests.support.gateway_nodes import BackendPlugin, gateway_node
from tests.support.http_nodes import called
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory, free_port, wait_for

JSON = {"Content-Type": "application/json"}


async def test_port_of_ollama(node_factory: NodeFactory) -> None:
    node, address = await gateway_node(node_factory, FakeBackend("f"))
    port = free_port()
    node.kernel.configure("gateway", {"ollama_port": port})
    await node.kernel.restart("gateway")
    there = f"127.0.0.1:{port}"

    async def listens() -> bool:
        return there in (await called(node, "http.status"))["listening"]

    await wait_for(listens, 5)
    for place in (there, address):
        assert (await exchange(place, request("GET", "/"))).body == b"Ollama is running"
        assert (await exchange(place, request("GET", "/v1/models"))).status == 200
    rebound = request("GET", "/api/tags", host=f"evil.example:{port}")
    assert (await exchange(there, rebound)).status == 421
    await node.kernel.restart("http")
    await wait_for(listens, 5)
    assert (await exchange(there, request("GET", "/api/tags"))).status == 200
    await node.kernel.disable("gateway")
    assert not await listens()


async def test_port_that_is_taken_is_told_and_stops_nothing_else(
    node_factory: NodeFactory,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node, address = await gateway_node(node_factory, FakeBackend("f"))
        node.kernel.configure("gateway", {"ollama_port": port})
        await node.kernel.restart("gateway")

        async def told() -> bool:
            warned = (await called(node, "node.status"))["warnings"]
            return any("set plugins.gateway.ollama_port" in str(each) for each in warned)

        await wait_for(told, 5)
        assert (await exchange(address, request("GET", "/api/tags"))).status == 200


async def models_of(address: str, path: str = "/api/tags") -> list[str]:
    answer = json.loads((await exchange(address, request("GET", path))).body)
    return [row["name"] for row in answer["models"]]


async def backend_of(node: Node, name: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = (await called(node, "inference.backends"))["backends"]
    return next(row for row in rows if row["name"] == name)


async def relaying(factory: NodeFactory, *models: str) -> tuple[Node, str]:
    """A node with both relays, which have no server yet, and models of its own."""
    plugins = {
        "inference": InferencePlugin(),
        "gateway": GatewayPlugin(),
        "fake": BackendPlugin(FakeBackend("f", models=models)),
        "ollama": OllamaPlugin(),
        "openai": OpenaiPlugin(),
    }
    sources = [PluginSource.of(HttpPlugin, name="http")]
    for name, made in plugins.items():
        sources.append(PluginSource.of(partial(itself, made), name=name))
    node = await factory({"plugins": {"http": {"port": 0}}}, sources=sources)
    return node, (await called(node, "http.status"))["listening"][0]


def itself(made: Any) -> Any:
    return made


async def pointed(node: Node, address: str) -> None:
    """Point both relays of a node at the API at an address."""
    node.kernel.configure("ollama", {"url": f"http://{address}"})
    node.kernel.configure("openai", {"servers": [{"name": "s", "url": f"http://{address}/v1"}]})
    for name in ("ollama", "openai"):
        await node.kernel.restart(name)


async def test_loop_to_self(node_factory: NodeFactory) -> None:
    """Its own list of models would ask for its own list of models, for ever."""
    node, address = await relaying(node_factory, "m")
    await pointed(node, address)
    assert await models_of(address) == ["m:latest"]
    for name in ("ollama", "openai:s"):
        assert "came back to the node that sent it" in (await backend_of(node, name))["detail"]
    for method, path in (
        *(("GET", "/api/tags"), ("POST", "/api/show"), ("POST", "/api/chat")),
        *(("GET", "/v1/models"), ("POST", "/v1/messages"), ("POST", "/txt")),
    ):
        for header in (node.id, f"12D3KooWother, {node.id}", ",".join("abcdefghijklmnopqr")):
            raw = request(method, path, {**JSON, "X-Aitorrent-Node": header})
            refused = await exchange(address, raw)
            assert refused.status == 508
            assert "came back to the node that sent it" in refused.body.decode()
    other = {"X-Aitorrent-Node": "12D3KooWother"}
    assert (await exchange(address, request("GET", "/api/tags", other))).status == 200


async def test_loop_over_two_nodes(node_factory: NodeFactory) -> None:
    """Each has the other as its Ollama: each offers its own models, and the other's."""
    a, there = await relaying(node_factory, "m")
    b, here = await relaying(node_factory, "n")
    await pointed(a, here)
    await pointed(b, there)

    async def offers_both() -> bool:
        return {"m:latest", "n:latest"} <= {*await models_of(there)}

    await wait_for(offers_both)
    body = json.dumps({"model": "n", "prompt": "a", "stream": False}).encode()
    answer = await exchange(there, request("POST", "/api/generate", JSON, body))
    assert json.loads(answer.body)["response"] == "one two"
    # what neither has is asked of both, and then is missing
    body = json.dumps({"model": "gone", "prompt": "a"}).encode()
    answer = await exchange(there, request("POST", "/api/generate", JSON, body))
    assert answer.status in (404, 503)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "::1", "192.168.1.2", "10.0.0.1", "fd00::1")),
        *((host, True) for host in ("localhost", "gpu", "gpu.local", "ollama.home.arpa")),
        *((host, False) for host in ("api.openai.com", "1.1.1.1", "2606:4700::1111")),
    ],
)
def test_only_servers_nearby_learn_the_id_of_a_node(host: str, expected: bool) -> None:
    assert is_nearby(host) is expected
