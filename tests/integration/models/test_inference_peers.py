"""Nodes that answer each other's prompts by a (fake) Ollama behind one of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    BACKENDS,
    INFERENCE,
    TRANSPORT,
    AitorrentError,
    Busy,
    Chunk,
    EmbedRequest,
    GenerationEnded,
    InvalidParams,
    NotFound,
    Unavailable,
)
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.node import Node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import REPOSITORY, DaemonFactory, NodeFactory, wait_for
from tests.support.servers.ollama_server import FakeOllama

QUICK = {"refresh_s": 0.1}


async def provider(make: NodeFactory, server: FakeOllama, **inference: Any) -> Node:
    plugins = {
        "ollama": {"url": server.url, "poll_s": 0.1},
        "inference": {**QUICK, **inference},
        "shards": {"enabled": False},
    }
    return await make({"plugins": plugins})


async def client_of(make: NodeFactory, *providers: Node) -> Node:
    plugins = {
        "ollama": {"enabled": False},
        "inference": QUICK,
        "shards": {"enabled": False},
    }
    node = await make({"plugins": plugins})
    for other in providers:
        await node.connect(other.addresses()[0])
    return node


def answer(node: Node) -> AsyncGenerator[Chunk, None]:
    chunks = node.generate("hi")
    assert isinstance(chunks, AsyncGenerator)
    return chunks


async def offers(node: Node) -> list[tuple[str, str]]:
    return sorted((v.name, v.backend) for v in await node.service(INFERENCE).models())


async def test_prompt_is_answered_by_the_ollama_of_a_peer(node_factory: NodeFactory) -> None:
    async with FakeOllama() as server:
        there = await provider(node_factory, server, capabilities={"llama-q4": "llama3.2:latest"})
        here = await client_of(node_factory, there)
        peer = f"peer:{there.id}"
        expected = [("llama-q4", peer), ("llama3.2:latest", peer)]

        async def known() -> bool:
            return await offers(here) == expected

        await wait_for(known, 15)
        for model in ("llama3.2:latest", "llama3.2", "llama-q4", ""):
            assert await here.ask("Why is the sky blue?", model=model) == "The sky is blue"
        request = server.requests[-1].json()
        assert (request["model"], request["prompt"]) == ("llama3.2:latest", "Why is the sky blue?")
        with pytest.raises(
            NotFound, match=r"no model 'zz'; available models: llama-q4, llama3\.2:latest"
        ):
            await here.ask("hi", model="zz")


async def test_texts_become_vectors_at_a_peer(node_factory: NodeFactory) -> None:
    async with FakeOllama(names=["nomic:latest"], capabilities=["embedding"]) as server:
        there = await provider(node_factory, server)
        here = await client_of(node_factory, there)
        inference = here.service(INFERENCE)

        async def known() -> bool:
            return [v.name for v in await inference.embedding_models()] == ["nomic:latest"]

        await wait_for(known, 15)
        assert await offers(here) == []
        for model in ("nomic", ""):
            found = await inference.embed(EmbedRequest(model=model, texts=("a", "ccc")))
            assert [vector.tolist() for vector in found.vectors] == [[1.0, 0.5], [3.0, 0.5]]
            assert found.tokens == 2
        assert server.requests[-1].json()["truncate"] is False


async def test_session_goes_on_through_its_context(node_factory: NodeFactory) -> None:
    async with FakeOllama() as server:
        there = await provider(node_factory, server)
        here = await client_of(node_factory, there)
        await wait_for(lambda: offers(here), 15)
        context: tuple[int, ...] | None = None
        for expected in ((1, 2, 3), (1, 2, 3, 1, 2, 3)):
            chunks = [c async for c in here.generate("hi", context=context)]
            context = chunks[-1].context
            assert context == expected


async def test_models_are_withdrawn_and_come_back_with_their_backend(
    node_factory: NodeFactory,
) -> None:
    async with FakeOllama() as server:
        there = await provider(node_factory, server)
        here = await client_of(node_factory, there)
        await wait_for(lambda: offers(here), 15)

        async def gone() -> bool:
            return await offers(here) == []

        await server.stop()
        await wait_for(gone, 15)
        with pytest.raises(Unavailable, match="this node has no model that can answer"):
            await here.ask("hi")
        await server.start()
        await wait_for(lambda: offers(here), 15)
        await there.stop()
        await wait_for(gone, 15)


async def test_giving_up_here_reaches_the_backend_of_the_peer(node_factory: NodeFactory) -> None:
    async with FakeOllama(hangs_after=1) as server:
        there = await provider(node_factory, server)
        here = await client_of(node_factory, there)
        await wait_for(lambda: offers(here), 15)
        with there.events(GenerationEnded) as events:
            async with aclosing(answer(here)) as chunks:
                assert (await anext(chunks)).text == "The"
            async with asyncio.timeout(10):
                await server.cancelled.wait()
                ended = await anext(events)
        assert isinstance(ended, GenerationEnded)
        assert (ended.reason, ended.backend) == ("cancelled", "ollama")


async def test_client_node_that_stops_reaches_the_backend_of_the_peer(
    node_factory: NodeFactory,
) -> None:
    async with FakeOllama(hangs_after=1) as server:
        there = await provider(node_factory, server)
        here = await client_of(node_factory, there)
        await wait_for(lambda: offers(here), 15)
        chunks = answer(here)
        assert (await anext(chunks)).text == "The"
        await here.stop()
        async with asyncio.timeout(10):
            await server.cancelled.wait()
        with pytest.raises((AitorrentError, StopAsyncIteration)):
            await anext(chunks)


async def test_answer_of_a_node_that_stops_ends_with_an_error(node_factory: NodeFactory) -> None:
    async with FakeOllama(hangs_after=2) as server:
        there = await provider(node_factory, server)
        here = await client_of(node_factory, there)
        await wait_for(lambda: offers(here), 15)
        said = []

        async def ask() -> None:
            async for chunk in here.generate("hi"):
                said.append(chunk)  # noqa: PERF401

        task = asyncio.create_task(ask())
        await wait_for(lambda: len(said) == 2)
        await there.stop()
        async with asyncio.timeout(15):
            with pytest.raises(Unavailable):
                await task
    assert not any(chunk.done for chunk in said)


async def test_one_request_too_many_of_peers_is_refused(node_factory: NodeFactory) -> None:
    async with FakeOllama(hangs_after=1) as server:
        there = await provider(node_factory, server, max_concurrent=1)
        here = await client_of(node_factory, there)
        await wait_for(lambda: offers(here), 15)
        async with aclosing(answer(here)) as chunks:
            await anext(chunks)
            with pytest.raises(Busy, match="Too many requests"):
                await here.ask("hi")


async def test_prompt_goes_to_the_next_provider_when_the_first_is_busy(
    node_factory: NodeFactory,
) -> None:
    async with FakeOllama(is_busy=True) as busy, FakeOllama() as free:
        providers = [await provider(node_factory, busy), await provider(node_factory, free)]
        here = await client_of(node_factory, *providers)

        async def both() -> bool:
            return len(await offers(here)) == 2

        await wait_for(both, 15)
        for _ in range(3):
            assert await here.ask("hi") == "The sky is blue"
        assert await here.ask("hi", backend=f"peer:{providers[1].id}") == "The sky is blue"
        with pytest.raises(Busy, match="server busy"):
            await here.ask("hi", backend=f"peer:{providers[0].id}")


async def test_lines_on_the_wire_are_those_of_the_first_ai_torrent(
    node_factory: NodeFactory,
) -> None:
    async with FakeOllama(words=["Hi"]) as server:
        there = await provider(node_factory, server)
        here = await client_of(node_factory, there)

        async def exchange(request: bytes) -> list[dict[str, Any]]:
            stream = await here.service(TRANSPORT).open_stream(there.id, "/ai-torrent/1/generate")
            await stream.write(request)
            lines = []
            while line := await stream.read_line(1 << 20):
                assert line.endswith(b"\n")
                lines.append(json.loads(line))
            await stream.close()
            return lines

        first, last = await exchange(b'{"prompt":"hello","params":{"context":[7]}}\n')
        assert list(first) == ["model", "created_at", "response", "done"]
        assert (first["model"], first["response"], first["done"]) == (
            "llama3.2:latest",
            "Hi",
            False,
        )
        assert list(last) == [
            *("model", "created_at", "response", "done", "done_reason", "context"),
            *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
            *("eval_count", "eval_duration"),
        ]
        assert (last["done"], last["context"], last["eval_count"]) == (True, [7, 1, 2, 3], 3)
        [refused] = await exchange(b"not json\n")
        assert refused["error"].startswith("bad request: ")


async def test_configured_nodes_are_kept_connected(node_factory: NodeFactory) -> None:
    async with FakeOllama() as server:
        there = await provider(node_factory, server)
        inference = {**QUICK, "nodes": [there.addresses()[0], "/ip4/127.0.0.1/tcp/1"]}
        here = await node_factory(
            {"plugins": {"ollama": {"enabled": False}, "inference": inference}}
        )
        await wait_for(lambda: offers(here), 15)
        assert await here.ask("hi") == "The sky is blue"
        await here.disconnect(there.id)
        await wait_for(lambda: here.service(TRANSPORT).peer(there.id) is not None)


async def test_backend_of_another_plugin_serves_as_soon_as_it_is_registered(
    node_factory: NodeFactory,
) -> None:
    here = await client_of(node_factory)
    backend = FakeBackend("mine", ["tiny"])
    with here.service(BACKENDS).added("mine", backend):
        assert await here.ask("hi", model="tiny", temperature=0) == "one two"
        with pytest.raises(InvalidParams):
            await here.ask("hi", model="tiny", temperature=-1)
    with pytest.raises(Unavailable):
        await here.ask("hi")


async def test_daemon_answers_on_the_command_line_and_notices_ollama(
    daemon_factory: DaemonFactory,
) -> None:
    async with FakeOllama(loaded_context=8192) as server:
        pass  # from here on its port is known, and nobody listens there
    daemon = await daemon_factory(
        {
            "plugins": {
                "ollama": {"url": server.url, "poll_s": 0.1},
                "inference": {"refresh_s": 0.1},
                "shards": {"enabled": False},
            }
        }
    )

    async def ctl(*words: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "aitorrentd.cli.main", *words),
            cwd=REPOSITORY,
            env={**os.environ, "AITORRENT_SOCKET": str(daemon.socket)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    plugin = await daemon.call("plugin.info", {"name": "ollama"})
    assert plugin["state"] == "running"
    [row] = (await daemon.call("inference.backends"))["backends"]
    assert (row["name"], row["ok"]) == ("ollama", False)
    assert row["detail"].startswith(
        f"cannot connect to Ollama at {server.url}; start it with `ollama serve`"
    )

    async def warnings() -> list[str]:
        found = (await daemon.call("node.status"))["warnings"]
        return [w["text"] for w in found if w["code"] == "no_backend"]

    await wait_for(warnings, 15)
    [warning] = await warnings()
    assert f"ollama: cannot connect to Ollama at {server.url}" in warning
    code, _, err = await ctl("ask", "hi")
    assert code == 1
    assert "cannot connect to Ollama at" in err

    async def is_well() -> bool:
        return not await warnings()

    async with server:
        await wait_for(is_well, 15)
        code, out, err = await ctl("ask", "Why is the sky blue?")
        assert (code, out) == (0, "The sky is blue\n")
        assert "3 tokens" in err
        assert "llama3.2:latest by ollama" in err
        code, out, _ = await ctl("models")
        assert out.splitlines()[1].split() == [
            *("llama3.2:latest", "ready", "ollama", "3.6", "GiB", "llama", "8192", "8.0B", "Q4_0")
        ]


async def test_discover_passes_over_this_machine_and_the_configured_nodes(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    async with FakeOllama() as ours, FakeOllama() as fixed, FakeOllama() as found:
        at_fixed = await provider(node_factory, fixed)
        at_found = await provider(node_factory, found)
        # An address without the peer's id: who that is shows when it answers.
        address = at_fixed.addresses()[0].partition("/p2p/")[0]
        plugins = {
            "ollama": {"url": ours.url, "poll_s": 0.1},
            "inference": {**QUICK, "nodes": [address]},
            "shards": {"enabled": False},
        }
        socket = tmp_path / "control.sock"
        here = await node_factory({"plugins": plugins, "control": {"socket": str(socket)}})
        await here.connect(at_found.addresses()[0])

        async def all_known() -> bool:
            return len(await offers(here)) == 3

        await wait_for(all_known, 15)
        wanted: list[dict[str, Any]] = [{"prompt": "hi"}, {"prompt": "hi", "discover": True}]
        async with await AsyncClient.connect(socket, 30) as client:
            for params in wanted:
                stream = client.stream("inference.generate", params)
                assert "".join([item["text"] async for item in stream]) == "The sky is blue"
        prompts = [
            sum(r.path == "/api/generate" for r in server.requests)
            for server in (ours, fixed, found)
        ]
        assert prompts == [1, 0, 1]
