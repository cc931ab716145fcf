"""Node, embedded in a program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    INFERENCE,
    TRANSPORT,
    Chunk,
    Conflict,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    InvalidParams,
    ModelView,
    PeerConnected,
    PeerDisconnected,
    PluginChanged,
    PluginContext,
    PluginInfo,
    Unavailable,
    hookimpl,
    peer_id,
)
from aitorrentd.errors import ConfigError, ShuttingDown
from aitorrentd.kernel.found import PluginSource
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, wait_for
from tests.support.transport.memory_network import MemoryNetwork

PEERS = [peer_id(bytes([n]) * 32) for n in range(3)]
"The nodes at A, B and C."
A, B, C = (f"/ip4/127.0.0.1/tcp/{n}" for n in (2, 3, 4))


class FakeInference:
    def __init__(self) -> None:
        self.asked: list[GenerateRequest] = []
        self.closed = 0

    async def models(self) -> Sequence[ModelView]:
        return []

    async def default_model(self) -> str:
        return ""

    async def count_tokens(self, request: GenerateRequest, *, backend: str | None = None) -> int:
        raise NotImplementedError

    async def embedding_models(self) -> Sequence[ModelView]:
        return []

    async def embed(self, request: EmbedRequest, *, backend: str | None = None) -> Embeddings:
        raise NotImplementedError

    async def generate(
        self, request: GenerateRequest, *, backend: str | None = None
    ) -> AsyncIterator[Chunk]:
        self.asked.append(request)
        try:
            for word in ("one ", "two ", "three"):
                yield Chunk(word)
            yield Chunk("", done=True, reason="stop")
        finally:
            self.closed += 1


class FakesPlugin:
    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("fakes", "fakes", provides=(TRANSPORT, INFERENCE))

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        net = MemoryNetwork()
        ctx.provide(TRANSPORT, net.join(ctx.identity.peer_id, publish=ctx.publish))
        for peer in PEERS:
            net.join(peer, connected=False)
        net.apart(ctx.identity.peer_id, PEERS[0], 0.001)
        ctx.provide(INFERENCE, FakeInference())
        yield


FAKES = [PluginSource.of(FakesPlugin)]


async def test_node_in_three_lines_asks_and_hears_of_peers() -> None:
    async with Node.temporary(sources=FAKES) as node:
        assert await node.ask("count") == "one two three"
        assert node.addresses() == [f"/ip4/127.0.0.1/tcp/1/p2p/{node.id}"]
        assert (await node.connect("127.0.0.1:2")).id == PEERS[0]
        assert await node.ping(PEERS[0]) == 0.001
        assert await node.broadcast("hello") == 1
        directory = node.config.directories.state
        assert directory.exists()
    assert node.state == "stopped"
    assert not directory.exists()


async def test_temporary_node_that_is_never_started_leaves_nothing() -> None:
    node = Node.temporary(sources=[])
    assert not node.config.directories.state.exists()


async def test_callbacks_plain_and_async_are_called_in_order_until_removed(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.make(sources=FAKES)
    heard: list[str] = []

    async def later(event: PeerConnected) -> None:
        await asyncio.sleep(0)
        heard.append(f"async {event.address}")

    remove = node.on(PeerConnected, lambda event: heard.append(f"plain {event.address}"))
    await node.start()
    node.on(PeerConnected, later)
    await node.connect(A)
    await node.connect(B)
    await wait_for(lambda: len(heard) == 4)
    assert [h for h in heard if h.startswith("plain")] == [f"plain {A}", f"plain {B}"]
    assert [h for h in heard if h.startswith("async")] == [f"async {A}", f"async {B}"]
    remove()
    remove()
    await node.connect(C)
    await wait_for(lambda: len(heard) == 5)
    assert heard[-1] == f"async {C}"


@pytest.mark.allow_error_log
async def test_callback_that_raises_is_logged_and_called_again(
    node_factory: NodeFactory, error_log: list[str]
) -> None:
    node = await node_factory(sources=FAKES)
    heard: list[str] = []

    def bad(event: PeerConnected) -> None:
        heard.append(event.address)
        raise KeyError(event.address)

    node.on(PeerConnected, bad)
    await node.connect(A)
    await node.connect(B)
    await wait_for(lambda: len(heard) == 2)
    await wait_for(lambda: len(error_log) == 2)
    assert "a callback on PeerConnected failed" in error_log[0]


async def test_slow_callback_loses_events_and_goes_on(node_factory: NodeFactory) -> None:
    node = await node_factory(sources=FAKES)
    heard: list[str] = []
    go = asyncio.Event()

    async def slow(event: PeerConnected) -> None:
        heard.append(event.address)
        await go.wait()

    node.on(PeerConnected, slow)
    for i in range(2000):
        node.kernel.bus.publish(PeerConnected(PEERS[0], str(i), True))
    go.set()
    await wait_for(lambda: any("is too slow and missed" in x.text for x in node.ring.lines()))
    assert len(heard) < 1100
    node.kernel.bus.publish(PeerConnected(PEERS[0], "last", True))
    await wait_for(lambda: heard[-1] == "last")


async def test_events_can_be_iterated(node_factory: NodeFactory) -> None:
    node = await node_factory(sources=FAKES)
    with node.events(PeerConnected, PeerDisconnected) as events:
        await node.connect(A)
        event = await asyncio.wait_for(anext(events), 5)
    assert isinstance(event, PeerConnected)
    assert event.address == A


async def test_answer_that_is_not_read_to_its_end_stops_the_work(node_factory: NodeFactory) -> None:
    node = await node_factory(sources=FAKES)
    answer = node.generate([{"role": "user", "content": "hi"}], model="m", temperature=0.5)
    assert (await anext(answer)).text == "one "
    await answer.aclose()  # type: ignore[attr-defined]
    inference: Any = node.service(INFERENCE)
    assert inference.closed == 1
    assert inference.asked[0].messages[0].content == "hi"
    assert inference.asked[0].params.temperature == 0.5


async def test_parameters_that_do_not_fit_are_refused_by_name(node_factory: NodeFactory) -> None:
    node = await node_factory(sources=FAKES)
    with pytest.raises(InvalidParams, match="unknown parameter temprature; known parameters: temp"):
        await node.ask("x", temprature=1)
    with pytest.raises(InvalidParams, match=r"params\.top_p: should be less than or equal to 1"):
        await node.ask("x", top_p=3)
    with pytest.raises(InvalidParams, match="role"):
        await node.ask([{"content": "x"}])


async def test_without_the_plugin_it_says_what_is_missing(node_factory: NodeFactory) -> None:
    node = await node_factory(sources=[])
    assert node.addresses() == []
    assert node.peers() == []
    for call in (node.connect(A), node.broadcast("x"), node.ask("x")):
        with pytest.raises(Unavailable, match=r"transport\.v1|inference\.v1"):
            await call


async def test_ten_nodes_live_in_one_process(node_factory: NodeFactory) -> None:
    nodes = [await node_factory(sources=FAKES, name=f"n{i}") for i in range(10)]
    assert len({node.id for node in nodes}) == 10
    assert [node.name for node in nodes] == [f"n{i}" for i in range(10)]
    await nodes[0].stop()
    assert await nodes[9].ask("count") == "one two three"


async def test_identity_survives_a_restart_and_a_second_node_is_refused(
    node_factory: NodeFactory,
) -> None:
    first = await node_factory(sources=[])
    state = first.config.directories.state
    with pytest.raises(Conflict, match=r"another daemon \(pid \d+\) uses the state directory"):
        await node_factory(sources=[], state_dir=state)
    await first.stop()
    second = await node_factory(sources=[], state_dir=state)
    assert second.id == first.id


async def test_node_is_started_once_and_stopped_as_often_as_you_like(
    node_factory: NodeFactory,
) -> None:
    node = await node_factory(sources=[])
    with pytest.raises(Conflict, match="this node is running; a node can be started only once"):
        await node.start()
    await node.stop()
    await node.stop()
    with pytest.raises(Conflict, match="this node is stopped"):
        await node.start()
    fresh = Node.temporary(sources=[])
    with pytest.raises(Unavailable, match="has not been started"):
        _ = fresh.id


async def test_failure_on_the_way_up_stops_what_was_started(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = node_factory.make(sources=[])
    state = node.config.directories.state
    (state / "identity.key").write_bytes(b"damaged")
    (state / "identity.key").chmod(0o600)
    with pytest.raises(ConfigError, match="is damaged"):
        await node.start()
    assert node.state == "stopped"
    (state / "identity.key").unlink()
    assert (await node_factory(sources=[], state_dir=state)).state == "running"


async def test_state_directory_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    config = {"node": {"state_dir": str(tmp_path / "state")}, "control": {"socket": None}}
    with pytest.raises(ConfigError, match="is not a directory; move it away, or set node"):
        await Node(config, sources=[]).start()


async def test_plugin_changes_are_seen_by_callbacks_from_the_start(
    node_factory: NodeFactory,
) -> None:
    node = node_factory.make(sources=FAKES)
    states: list[str] = []
    node.on(PluginChanged, lambda event: states.append(event.state))
    await node.start()
    await wait_for(lambda: "running" in states)
    assert states.index("starting") < states.index("running")


class SlowPlugin:
    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("slow", "takes its time")

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield


async def test_node_that_is_stopped_while_it_starts_ends_clean(node_factory: NodeFactory) -> None:
    node = node_factory.make(sources=[PluginSource.of(SlowPlugin)])
    starting = asyncio.create_task(node.start())
    await wait_for(lambda: node.state == "starting" and node.uptime_s > 0.1)
    async with asyncio.timeout(10):
        await asyncio.gather(node.stop(), node.stop())
        with pytest.raises(ShuttingDown, match="was stopped during startup"):
            await starting
    assert node.state == "stopped"
    state = node.config.directories.state
    assert (await node_factory(sources=[], state_dir=state)).state == "running"
