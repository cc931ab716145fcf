"""Daemons that know only one common address find each other's models through the DHT."""

from __future__ import annotations

from typing import Any

from aitorrentd.errors import AitorrentError
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.servers.ollama_server import FakeOllama

OFF = {"enabled": False}


async def start(make: DaemonFactory, hub: Daemon | None, **plugins: Any) -> Daemon:
    bootstrap = [] if hub is None else (await hub.call("node.id"))["addresses"]
    tree = {
        "ollama": OFF,
        "openai": OFF,
        "shards": OFF,
        "inference": {"refresh_s": 0.2},
        "transport": {"bootstrap": bootstrap},
        **plugins,
    }
    return await make({"plugins": tree})


async def ids(daemon: Daemon) -> set[str]:
    return {peer["id"] for peer in (await daemon.call("transport.peers"))["peers"]}


async def test_prompt_is_answered_by_a_node_that_only_the_dht_knows(
    daemon_factory: DaemonFactory,
) -> None:
    async with FakeOllama() as server:
        hub = await start(daemon_factory, None)
        a = await start(daemon_factory, hub, ollama={"url": server.url, "poll_s": 0.2})
        c = await start(daemon_factory, hub)
        a_id = (await a.call("node.id"))["id"]
        model = server.names[0]

        async def published() -> Any:
            found = await c.call("dht.find", {"key": f"ait:cap:{model}"})
            return [row["peer"] for row in found["providers"]] == [a_id]

        await wait_for(published, 30.0, every_s=0.2)
        assert a_id not in await ids(c)
        async with await c.client() as client:
            stream = client.stream("inference.generate", {"model": model, "prompt": "hi"})
            assert "".join([item["text"] async for item in stream]) == "The sky is blue"
        assert a_id in await ids(c)  # dialled directly


async def test_value_is_published_again_after_sigkill(daemon_factory: DaemonFactory) -> None:
    hub = await start(daemon_factory, None)
    a = await start(daemon_factory, hub)
    a_id = (await a.call("node.id"))["id"]
    put = {"name": "motto", "value": "Share what you have"}

    async def stored() -> Any:
        return (await a.call("dht.put", put))["stored"]

    await wait_for(stored, 30.0, every_s=0.2)
    await a.kill()
    await hub.kill()
    hub = await daemon_factory(directory=hub.directory)  # what it kept for others is gone
    await daemon_factory(directory=a.directory)

    async def found() -> Any:
        try:
            reply = await hub.call("dht.get", {"name": "motto", "publisher": a_id})
        except AitorrentError:
            return False
        return reply["value"] == put["value"]

    await wait_for(found, 60.0, every_s=0.5)
