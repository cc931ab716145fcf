"""Ollama's own Python client against a model that three nodes hold a third of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from ollama import AsyncClient

from aitorrentd.node import Node
from tests.support.http_nodes import called, new_token
from tests.support.nodes import NodeFactory
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import answer, shards_network

PROMPT = "SEVERALNODESHOLDAMODEL"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ASKED: list[Any] = [{"role": "user", "content": PROMPT}]
GREEDY = {"temperature": 0, "num_predict": 12, "num_ctx": 4096}


async def served(node: Node) -> str:
    """The address of the API of a node, which serves it from now on."""
    node.kernel.configure("http", {"enabled": True, "port": 0})
    await node.kernel.enable("http")
    return f"http://{(await called(node, 'http.status'))['listening'][0]}"


@contextlib.asynccontextmanager
async def client_of(url: str, key: str = "") -> AsyncIterator[AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with AsyncClient(host=url, headers=headers, trust_env=False) as client:
        yield client


async def test_the_sdk_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m")
    (path / "chat_template.jinja").write_text(TEMPLATE)
    nodes = await shards_network(node_factory, path, ("0-2", "2-4", "4-6"))
    expected = (await answer(nodes[1], PROMPT, temperature=0.0, max_tokens=12))["text"]
    url = await served(nodes[0])

    async with client_of(url) as client:
        (listed,) = (await client.list()).models
        assert listed.model == "m:latest"
        shown = await client.show("m")
        assert shown.modelinfo is not None
        assert shown.capabilities == ["completion"]  # its chat template has no tools
        family = shown.modelinfo["general.architecture"]
        assert shown.modelinfo[f"{family}.block_count"] == 6
        (loaded,) = (await client.ps()).models
        assert (loaded.model, loaded.context_length) == (
            "m:latest",
            shown.modelinfo[f"{family}.context_length"],
        )

        for name in ("m", "m:latest"):
            whole = await client.chat(model=name, messages=ASKED, options=GREEDY, think=False)
            assert (whole.message.content, whole.done_reason) == (expected, "length")
            assert (whole.model, whole.eval_count, whole.done) == (name, 12, True)
            assert whole.prompt_eval_count and whole.total_duration and whole.eval_duration

        streamed = [
            part async for part in await client.chat("m", ASKED, options=GREEDY, stream=True)
        ]
        assert "".join(part.message.content or "" for part in streamed) == expected
        assert [part.done for part in streamed] == [False] * (len(streamed) - 1) + [True]
        assert streamed[-1].done_reason == "length"
        assert streamed[-1].created_at is not None

        first = await client.generate("m", PROMPT, options=GREEDY)
        assert first.response == expected
        assert first.context
        second = await client.generate("m", "ANDTHEN", options=GREEDY, context=first.context)
        assert second.response
        assert second.context is not None
        assert second.context[: len(first.context)] == first.context

        stop = expected[4:6]
        stopped = await client.chat("m", ASKED, options=GREEDY | {"stop": [stop, "never"]})
        assert stopped.message.content == expected[: expected.index(stop)]
        assert stopped.done_reason == "stop"

        drawn = [
            await client.generate("m", PROMPT, options=GREEDY | {"seed": seed, "temperature": 1.5})
            for seed in (-7, -7, 8)
        ]
        assert drawn[0].response == drawn[1].response != drawn[2].response

        raw = await answer(nodes[1], PROMPT, raw=True, temperature=0.0, max_tokens=12)
        verbatim = await client.generate("m", PROMPT, raw=True, options=GREEDY, logprobs=True)
        assert verbatim.response == raw["text"]
        assert verbatim.logprobs is not None and len(verbatim.logprobs) == 12

        schema = await client.chat("m", ASKED, format={"type": "boolean"})
        assert json.loads(schema.message.content or "") in (True, False)

        assert (await client.generate("m")).done_reason == "load"
        with pytest.raises(ollama.ResponseError, match="model 'gone' not found") as missing:
            await client.chat("gone", ASKED)
        assert missing.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="tokens") as long:
            async for _ in await client.generate("m", "A" * 600, stream=True):
                pass
        assert long.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="unauthorized"):
            await client.pull("org/model")
        with pytest.raises(ollama.ResponseError, match="does not create or push") as refused:
            await client.create("n", from_="m")
        assert refused.value.status_code == 501

    token = await new_token(nodes[0], "operate")
    async with client_of(url, token) as operator:
        with pytest.raises(ollama.ResponseError, match="plugins.catalogue.servers"):
            await operator.pull("org/model")
        assert (await operator.copy("m", "twin")).status == "success"
        twin = await operator.chat("twin", ASKED, options=GREEDY)
        assert (twin.model, twin.message.content) == ("twin", expected)
        with pytest.raises(ollama.ResponseError, match='model "gone" not found'):
            await operator.copy("gone", "b")
