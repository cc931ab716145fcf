"""What a plugin gets from its node, and how policies are asked."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    Conflict,
    InvalidParams,
    OfferView,
    PeerCandidate,
    PeerId,
    PluginContext,
    PluginInfo,
    Price,
    ServiceKey,
    Unavailable,
    Verdict,
    WireProtocol,
    hookimpl,
)
from aitorrentd.api.events import MessageReceived
from aitorrentd.kernel.context.services import Services
from aitorrentd.kernel.found import PluginSource
from tests.support.clocks import FakeClock
from tests.support.kernel_plugins import kernel, made

PEER = PeerCandidate(PeerId("12D3KooWpeer"), "/ip4/127.0.0.1/tcp/1", True, "aitorrentd/0.1.0")


class Held:
    """Keeps the context of a plugin for the test."""

    ctx: PluginContext

    def start(self, ctx: PluginContext) -> None:
        self.ctx = ctx


async def test_directories_are_the_plugins_own_and_private(tmp_path: Path) -> None:
    held = Held()
    async with kernel(tmp_path, made("dht", start=held.start)):
        assert not (tmp_path / "data" / "dht").exists()
        for path, base in (
            (held.ctx.data_dir, "data"),
            (held.ctx.cache_dir, "cache"),
            (held.ctx.runtime_dir, "run"),
        ):
            assert path == tmp_path / base / "dht"
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


async def test_context_gives_the_nodes_own_things(tmp_path: Path) -> None:
    held, clock = Held(), FakeClock()
    source = made("dht", start=held.start)
    async with kernel(tmp_path, source, clock=clock, plugins={"dht": {}}):
        ctx = held.ctx
        assert (ctx.name, ctx.network, ctx.log.name) == ("dht", "test", "aitorrentd.dht")
        assert ctx.config.enabled is True
        assert ctx.clock.monotonic() == 1000.0
        assert ctx.identity.sign("d", b"m") == b"dm"
        assert 0 <= ctx.random.random() < 1


async def test_database_is_one_file_of_the_plugin(tmp_path: Path) -> None:
    held = Held()
    async with (
        kernel(tmp_path, made("dht", start=held.start)),
        held.ctx.db({1: "CREATE TABLE t (x);"}) as db,
    ):
        await db.execute("INSERT INTO t VALUES (1)")
        await db.commit()
    assert (tmp_path / "data" / "dht" / "dht.sqlite").exists()


async def test_events_go_from_plugin_to_plugin_and_end_with_the_reader(tmp_path: Path) -> None:
    reader, writer = Held(), Held()
    async with kernel(
        tmp_path, made("a", start=reader.start), made("b", start=writer.start)
    ) as node:
        with reader.ctx.subscribe(MessageReceived) as events:
            said = MessageReceived(PeerId("x"), "hello")
            writer.ctx.publish(said)
            assert await anext(events) == said
            waiting = asyncio.ensure_future(anext(events))
            await node.disable("a")
            with pytest.raises(StopAsyncIteration):
                await waiting


async def test_stopped_plugin_gets_nothing_that_stays(tmp_path: Path) -> None:
    held = Held()
    async with kernel(tmp_path, made("dht", provides=("dht.v1",), start=held.start)) as node:
        await node.disable("dht")
        with pytest.raises(Unavailable, match="plugin dht is no longer running"):
            held.ctx.provide(ServiceKey[str]("dht.v1"), "x")
        with (
            pytest.raises(Unavailable, match="no longer running"),
            held.ctx.subscribe(MessageReceived),
        ):
            pass
        with pytest.raises(Unavailable, match="no longer running"):
            await held.ctx.spawn_worker("m:f", name="w")


async def test_context_has_no_way_to_the_kernel(tmp_path: Path) -> None:
    held = Held()
    async with kernel(tmp_path, made("dht", start=held.start)):
        public = {name for name in dir(held.ctx) if not name.startswith("_")}
    promised = {name for name in dir(PluginContext) if not name.startswith("_")}
    assert public - promised == {"close_workers", "end", "kill_workers"}


async def test_protocols_of_running_plugins_are_seen(tmp_path: Path) -> None:
    async def handle(stream: Any) -> None:
        return None

    class Answers:
        @hookimpl
        def aitorrent_info(self) -> PluginInfo:
            return PluginInfo("answers", "answers peers")

        @hookimpl
        def aitorrent_protocols(self) -> list[WireProtocol]:
            return [WireProtocol("/echo/1", handle)]

    held = Held()
    async with kernel(tmp_path, made("link", start=held.start), PluginSource.of(Answers)) as node:
        assert [protocol.id for protocol in held.ctx.protocols()] == ["/echo/1"]
        await node.disable("answers")
        assert list(held.ctx.protocols()) == []


def policy(name: str, **hooks: Any) -> PluginSource:
    @hookimpl
    def info(self: object) -> PluginInfo:
        return PluginInfo(name, "has opinions")

    marked = {key: hookimpl(function) for key, function in hooks.items()}
    return PluginSource.of(type(name, (), {"aitorrent_info": info, **marked}), name=name)


async def test_first_opinion_decides_and_failing_ones_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(self: object, peer: PeerCandidate) -> Verdict:
        raise SystemExit(1)

    held = Held()
    async with kernel(
        tmp_path,
        made("link", start=held.start),
        policy("a_no", aitorrent_admit_peer=lambda self, peer: Verdict(False, peer.agent)),
        policy("b_none", aitorrent_admit_peer=lambda self: None),
        policy("c_crash", aitorrent_admit_peer=crash),
        policy("d_wrong", aitorrent_admit_peer=lambda self: True),
    ) as node:
        verdict = held.ctx.decide("aitorrent_admit_peer", peer=PEER)
        assert verdict == Verdict(False, "aitorrentd/0.1.0")
        assert "plugin c_crash: aitorrent_admit_peer failed and is ignored" in caplog.text
        assert "plugin d_wrong: aitorrent_admit_peer returned a bool" in caplog.text
        await node.disable("a_no")
        assert held.ctx.decide("aitorrent_admit_peer", peer=PEER) is None


async def test_no_policy_means_no_opinion(tmp_path: Path) -> None:
    held = Held()
    async with kernel(tmp_path, made("link", start=held.start)):
        offer = OfferView(PeerId("x"), "llm", 1.0, "token")
        assert held.ctx.decide("aitorrent_price", offer=offer) is None


async def test_question_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    held = Held()
    async with kernel(tmp_path, made("link", start=held.start)):
        with pytest.raises(InvalidParams, match="aitorrent_info is not a policy hook"):
            held.ctx.decide("aitorrent_info")
        with pytest.raises(InvalidParams, match="aitorrent_price needs the argument offer"):
            held.ctx.decide("aitorrent_price")


async def test_slow_policy_is_told_once_for_each_plugin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, held = FakeClock(), Held()

    def slow(self: object) -> Price:
        clock.now += 0.004
        return Price(2.0)

    sources = (made("link", start=held.start), policy("dear", aitorrent_price=slow))
    async with kernel(tmp_path, *sources, clock=clock):
        for _ in range(3):
            assert held.ctx.decide("aitorrent_price", offer=None) == Price(2.0)
    told = [r.getMessage() for r in caplog.records if "took" in r.getMessage()]
    assert told == ["plugin dear: aitorrent_price took 4.0 ms; policy hooks have 1 ms"]


def test_service_has_one_provider_at_a_time() -> None:
    services, key = Services(), ServiceKey[str]("a.v1")
    services.provide("one", key, "x")
    with pytest.raises(Conflict, match=r"a\.v1 is already provided by plugin one"):
        services.provide("two", key, "y")
    with pytest.raises(InvalidParams, match=r"plugin one provides None as b\.v1"):
        services.provide("one", ServiceKey[Any]("b.v1"), None)
    assert services.withdraw("one") == ("a.v1",)
    services.provide("two", key, "y")
    assert services.service(key) == services.optional(key) == "y"
