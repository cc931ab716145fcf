"""Plugins come up in order, and go down in the reverse one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    Conflict,
    MethodNotFound,
    NotFound,
    PluginConfig,
    PluginContext,
    ServiceKey,
    ShuttingDown,
    SkipPlugin,
    Unavailable,
)
from aitorrentd.api.events import PluginChanged
from tests.support.clocks import FakeClock
from tests.support.kernel_plugins import Story, kernel, made, states, until_state


async def test_provider_starts_before_and_stops_after_who_requires_it(tmp_path: Path) -> None:
    story = Story()
    async with kernel(
        tmp_path,
        made("app", story=story, requires=("link.v1",)),
        made("link", story=story, provides=("link.v1",)),
    ) as node:
        assert states(node) == {"app": "running", "link": "running"}
        assert node.service(ServiceKey[str]("link.v1")) == "link.v1 of link"
    assert story.lines == ["link up", "app up", "app down", "link down"]
    assert states(node) == {"app": "stopped", "link": "stopped"}
    with pytest.raises(Unavailable, match=r"no running plugin provides link\.v1"):
        node.service(ServiceKey[str]("link.v1"))


async def test_wanted_service_is_there_first_and_may_be_missing(tmp_path: Path) -> None:
    story = Story()
    seen: list[Any] = []

    def look(ctx: PluginContext) -> None:
        seen.append(ctx.optional(ServiceKey[str]("link.v1")))

    app = made("app", story=story, wants=("link.v1", "nobody.v1"), start=look)
    async with kernel(tmp_path, app, made("link", story=story, provides=("link.v1",))):
        assert seen == ["link.v1 of link"]
    assert story.lines == ["link up", "app up", "app down", "link down"]
    async with kernel(tmp_path, app) as node:
        assert states(node) == {"app": "running"}


async def test_independent_plugins_start_together(tmp_path: Path) -> None:
    both = asyncio.Barrier(2)
    async with kernel(
        tmp_path,
        made("a", start=lambda _: both.wait(), timeout_s=1.0),
        made("b", start=lambda _: both.wait(), timeout_s=1.0),
    ) as node:
        assert states(node) == {"a": "running", "b": "running"}


async def test_missing_requirement_blocks_with_the_name_of_the_service(tmp_path: Path) -> None:
    async with kernel(tmp_path, made("app", requires=("link.v1",))) as node:
        row = node.row("app")
        assert (row.state, row.detail) == (
            "blocked",
            "needs link.v1, which no enabled plugin provides",
        )


async def test_requirement_loop_blocks_its_members_and_names_them(tmp_path: Path) -> None:
    async with kernel(
        tmp_path,
        made("a", provides=("a.v1",), requires=("b.v1",)),
        made("b", provides=("b.v1",), requires=("a.v1",)),
        made("c"),
    ) as node:
        assert states(node) == {"a": "blocked", "b": "blocked", "c": "running"}
        assert node.row("a").detail in ("loop: a needs b needs a", "loop: b needs a needs b")


async def test_loop_of_wishes_starts_all_the_same(tmp_path: Path) -> None:
    async with kernel(
        tmp_path,
        made("a", provides=("a.v1",), wants=("b.v1",)),
        made("b", provides=("b.v1",), wants=("a.v1",)),
    ) as node:
        assert states(node) == {"a": "running", "b": "running"}


async def test_blocked_plugin_starts_once_its_requirement_appears(tmp_path: Path) -> None:
    async with kernel(
        tmp_path,
        made("app", requires=("link.v1",)),
        made("link", provides=("link.v1",)),
        plugins={"link": {"enabled": False}},
    ) as node:
        assert states(node) == {"app": "blocked", "link": "disabled"}
        # A disabled plugin is not imported: what it provides is not known.
        expected = "needs link.v1, which no enabled plugin provides; disabled: link"
        assert node.row("app").detail == expected
        row = await node.enable("link")
        assert row.state == "running"
        await until_state(node, "app", "running")


async def test_service_provided_late_starts_who_waits_for_it(tmp_path: Path) -> None:
    go = asyncio.Event()
    key = ServiceKey[str]("late.v1")

    def start(ctx: PluginContext) -> None:
        async def later() -> None:
            await go.wait()
            ctx.provide(key, "late")

        ctx.tasks.create_task(later())

    late = made("late", provides=("late.v1",), start=start, provides_itself=False)
    async with kernel(tmp_path, made("app", requires=("late.v1",)), late) as node:
        assert node.row("app").detail == "needs late.v1, which plugin late does not provide yet"
        go.set()
        await until_state(node, "app", "running")


async def test_disable_blocks_dependants_and_enable_brings_them_back(tmp_path: Path) -> None:
    story = Story()
    async with kernel(
        tmp_path,
        made("app", story=story, requires=("link.v1",), methods=("app.go",)),
        made("link", story=story, provides=("link.v1",), methods=("link.go",)),
    ) as node:
        assert node.method("app.go")[0] == "app"
        assert (await node.disable("link")).state == "disabled"
        assert states(node) == {"app": "blocked", "link": "disabled"}
        assert story.before("app down", "link down")
        remedy = (
            r"needs link\.v1 of plugin link, which is disabled;"
            " enable it: aitorrentctl plugin enable link"
        )
        with pytest.raises(Unavailable, match=f"plugin app is blocked: {remedy}$") as caught:
            node.method("app.go")
        assert caught.value.data == {"plugin": "app", "state": "blocked"}
        with pytest.raises(
            Unavailable, match="disabled; enable it: aitorrentctl plugin enable link"
        ):
            node.method("link.go")
        await node.enable("link")
        await until_state(node, "app", "running")
        assert node.method("app.go")[1].name == "app.go"


async def test_disable_leaves_those_that_only_want_it_running(tmp_path: Path) -> None:
    async with kernel(
        tmp_path, made("app", wants=("link.v1",)), made("link", provides=("link.v1",))
    ) as node:
        await node.disable("link")
        assert states(node) == {"app": "running", "link": "disabled"}


async def test_restart_takes_dependants_along(tmp_path: Path) -> None:
    story = Story()
    async with kernel(
        tmp_path,
        made("app", story=story, requires=("link.v1",)),
        made("link", story=story, provides=("link.v1",)),
    ) as node:
        assert (await node.restart("link")).state == "running"
        await until_state(node, "app", "running")
        assert story.lines == ["link up", "app up", "app down", "link down", "link up", "app up"]
        assert node.row("link").restarts == 0


async def test_commands_name_what_is_wrong(tmp_path: Path) -> None:
    node = kernel(tmp_path, made("link"), made("off"), plugins={"off": {"enabled": False}})
    async with node:
        with pytest.raises(NotFound, match=r"no plugin 'lnk' is installed; did you mean link\?"):
            await node.restart("lnk")
        with pytest.raises(Conflict, match="plugin off is disabled; enable it instead"):
            await node.restart("off")
        with pytest.raises(MethodNotFound, match="no method 'core.nothing'"):
            node.method("core.nothing")
        with pytest.raises(Conflict, match="has already run"):
            await node.start()
    with pytest.raises(ShuttingDown, match="the daemon is stopping"):
        await node.enable("off")


async def test_method_of_a_running_plugin_that_lacks_it_is_not_found(tmp_path: Path) -> None:
    async with kernel(tmp_path, made("app", methods=("app.list",))) as node:
        with pytest.raises(MethodNotFound, match=r"no method 'app\.lst'; did you mean app\.list\?"):
            node.method("app.lst")


async def test_disabled_plugin_is_never_loaded(tmp_path: Path) -> None:
    def refuse() -> object:
        raise AssertionError("a disabled plugin was loaded")

    source = made("off")
    object.__setattr__(source, "load", refuse)
    async with kernel(tmp_path, source, plugins={"off": {"enabled": False}}) as node:
        assert states(node) == {"off": "disabled"}


async def test_wrong_settings_make_a_plugin_invalid_with_the_path(tmp_path: Path) -> None:
    class Link(PluginConfig):
        port: int = 1

    async with kernel(
        tmp_path,
        made("link", config=Link),
        made("other"),
        plugins={"link": {"prot": 2}, "othr": {}},
    ) as node:
        assert states(node) == {"link": "invalid", "other": "running"}
        assert node.row("link").detail == "plugins.link.prot: unknown key; did you mean port?"
        texts = [(name, warning.severity, warning.text) for name, warning in node.health()]
        assert texts == [
            (
                "othr",
                "warning",
                "plugins.othr: no plugin of this name is installed; did you mean other?",
            ),
            (
                "link",
                "error",
                "plugin link is invalid: plugins.link.prot: unknown key; did you mean port?",
            ),
        ]
        node.configure("link", {"port": 5})
        assert (await node.restart("link")).state == "running"
        assert node.config("link").port == 5


async def test_skipped_is_not_failed(tmp_path: Path) -> None:
    def skip(ctx: PluginContext) -> None:
        raise SkipPlugin("no CUDA device")

    async with kernel(tmp_path, made("gpu", start=skip)) as node:
        row = node.row("gpu")
        assert (row.state, row.detail) == ("skipped", "no CUDA device")
        assert node.health() == []


async def test_states_are_told_as_events_in_order(tmp_path: Path) -> None:
    node = kernel(tmp_path, made("link"))
    with node.bus.subscribe(PluginChanged) as events:
        async with node:
            pass
        seen: list[str] = []
        while not seen or seen[-1] != "stopped":
            event = await anext(events)
            assert isinstance(event, PluginChanged)
            seen.append(event.state)
    assert seen == ["loaded", "configured", "starting", "running", "stopping", "stopped"]


async def test_row_tells_seconds_by_the_clock(tmp_path: Path) -> None:
    clock = FakeClock()

    def start(ctx: PluginContext) -> None:
        clock.now += 3.0

    async with kernel(tmp_path, made("link", start=start), clock=clock) as node:
        clock.now += 60.0
        row = node.row("link")
        assert (row.start_s, row.since_s, row.tier, row.dist) == (
            3.0,
            60.0,
            "builtin",
            "aitorrentd",
        )


async def test_two_plugins_for_one_service_leave_the_second_as_a_spare(tmp_path: Path) -> None:
    async with kernel(
        tmp_path,
        made("first", provides=("link.v1",)),
        made("second", provides=("link.v1",)),
        made("app", requires=("link.v1",)),
    ) as node:
        assert states(node) == {"app": "running", "first": "running", "second": "blocked"}
        assert node.row("second").detail == (
            "plugin first already provides link.v1; disable one of them"
        )
        await node.disable("first")
        await until_state(node, "second", "running")
        await until_state(node, "app", "running")


async def test_ten_nodes_in_one_process_do_not_know_each_other(tmp_path: Path) -> None:
    made_source = made("link", provides=("link.v1",))
    nodes = [kernel(tmp_path / str(i), made_source) for i in range(10)]
    await asyncio.gather(*(node.start() for node in nodes))
    await nodes[0].disable("link")
    assert [states(node)["link"] for node in nodes] == ["disabled"] + ["running"] * 9
    await asyncio.gather(*(node.stop() for node in nodes))


async def test_stop_during_start_ends_both(tmp_path: Path) -> None:
    node = kernel(tmp_path, made("slow", start=lambda _: asyncio.Event().wait()))
    with node.bus.subscribe(PluginChanged) as events:
        starting = asyncio.create_task(node.start())
        async for event in events:
            if event == PluginChanged("slow", "starting"):
                break
    await node.stop()
    await starting
    assert states(node) == {"slow": "stopped"}


async def test_stop_without_start_does_nothing(tmp_path: Path) -> None:
    node = kernel(tmp_path, made("link"))
    await node.stop()
    await node.stop()
    assert node.rows() == []
