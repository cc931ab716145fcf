"""Ollama's own port, and a node that is its own Ollama."""

from __future__ import annotations

import json
import socket

from aitorrent_gateway.plugin import GatewayPlugin
from aitorrent_inference.plugin import InferencePlugin
from aitorrent_ollama.plugin import OllamaPlugin
from tests.support.clients.raw_http import exchange, request
from tests.support.gateway_nodes import BackendPlugin, gateway_node
from tests.support.http_nodes import called, http_node
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


async def test_loop_to_self(node_factory: NodeFactory) -> None:
    """Its own list of models would ask for its own list of models, for ever."""
    plugins = {
        "inference": InferencePlugin(),
        "gateway": GatewayPlugin(),
        "fake": BackendPlugin(FakeBackend("f")),
        "ollama": OllamaPlugin(),
    }
    node, address = await http_node(node_factory, *plugins.items())
    node.kernel.configure("ollama", {"url": f"http://{address}"})
    await node.kernel.restart("ollama")
    answer = await exchange(address, request("GET", "/api/tags"))
    assert [row["name"] for row in json.loads(answer.body)["models"]] == ["m:latest"]
    (row,) = [
        row
        for row in (await called(node, "inference.backends"))["backends"]
        if row["name"] == "ollama"
    ]
    assert "plugins.ollama.url leads to this node itself" in row["detail"]
    for method, path in ("GET", "/api/tags"), ("POST", "/api/show"), ("POST", "/api/chat"):
        header = {"X-Aitorrent-Node": node.id}
        refused = await exchange(address, request(method, path, {**JSON, **header}))
        assert (refused.status, list(json.loads(refused.body))) == (508, ["error"])
    other = {"X-Aitorrent-Node": "12D3KooWother"}
    assert (await exchange(address, request("GET", "/api/tags", other))).status == 200
