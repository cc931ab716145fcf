"""A node that answers by an OpenAI-compatible server, configured as a user would."""

from __future__ import annotations

from aitorrentd.api import INFERENCE
from tests.support.nodes import DaemonFactory, NodeFactory
from tests.support.servers.openai_server import KEY, FakeOpenai

QUIET = {"ollama": {"enabled": False}, "shards": {"enabled": False}}


async def test_prompt_is_answered_by_the_configured_servers(node_factory: NodeFactory) -> None:
    async with FakeOpenai(ids=["a"]) as one, FakeOpenai(ids=["b"], words=["two"]) as two:
        servers = [{"name": "one", "url": one.url}, {"name": "two", "url": f"{two.url}/v1"}]
        node = await node_factory({"plugins": {**QUIET, "openai": {"servers": servers}}})
        assert await node.ask("hi", model="a") == "Hello!"
        assert await node.ask("hi", model="b", max_tokens=5) == "two"
        assert await node.ask("hi", model="b", backend="openai:two") == "two"
        views = await node.service(INFERENCE).models()
        assert [(v.name, v.backend) for v in views] == [("a", "openai:one"), ("b", "openai:two")]
        assert two.requests[-1].json()["messages"] == [{"role": "user", "content": "hi"}]


async def test_key_by_reference_reaches_the_server_and_nobody_else(
    daemon_factory: DaemonFactory,
) -> None:
    async with FakeOpenai(needs_key=True) as server:
        openai = {"servers": [{"name": "it", "url": server.url, "api_key": {"env": "TEST_KEY"}}]}
        daemon = await daemon_factory(
            {"plugins": {**QUIET, "openai": openai}, "log": {"level": "debug"}},
            env={"TEST_KEY": KEY},
        )
        async with await daemon.client() as client:
            stream = client.stream("inference.generate", {"prompt": "hi", "model": "gpt-4o-mini"})
            assert "".join([item["text"] async for item in stream]) == "Hello!"
        told = [
            await daemon.call("plugin.info", {"name": "openai"}),
            await daemon.call("config.show", {"origin": True}),
            await daemon.call("inference.backends"),
            daemon.log(),
        ]
    assert KEY not in str(told)


async def test_plugin_without_servers_is_skipped_and_says_why(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory({"plugins": QUIET})
    row = await daemon.call("plugin.info", {"name": "openai"})
    assert (row["state"], row["detail"]) == ("skipped", "no servers in plugins.openai.servers")
