"""Crashes, restarts, plugins that do not start or stop, and plugins that are required."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    ConfigError,
    Conflict,
    PluginContext,
    PluginInfo,
    ServiceKey,
    SkipPlugin,
    Unavailable,
    hookimpl,
)
from aitorrentd.api.events import PluginChanged
from aitorrentd.kernel.found import PluginSource
from tests.support.clocks import FakeClock
from tests.support.kernel_plugins import (
    FAST,
    FakeWorker,
    Story,
    kernel,
    made,
    states,
    until_state,
)


class Bomb:
    """Makes a plugin fail from within, when told."""

    def __init__(self, error: Callable[[], None]) -> None:
        self._error = error
        self.starts = 0
        self._lit = asyncio.Event()

    def start(self, ctx: PluginContext) -> None:
        self.starts += 1
        ctx.tasks.create_task(self._wait())

    async def _wait(self) -> None:
        await self._lit.wait()
        self._lit.clear()
        self._error()

    def explode(self) -> None:
        self._lit.set()


def boom() -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize("error", [boom, sys.exit])
async def test_crashed_plugin_comes_back_and_takes_its_dependants_along(
    tmp_path: Path, error: Callable[[], None]
) -> None:
    story, bomb = Story(), Bomb(error)
    async with kernel(
        tmp_path,
        made("app", story=story, requires=("link.v1",)),
        made("link", story=story, provides=("link.v1",), start=bomb.start),
        made("other", story=story),
    ) as node:
        bomb.explode()
        await until_state(node, "app", "blocked")
        await until_state(node, "app", "running")
        assert states(node) == {"app": "running", "link": "running", "other": "running"}
        assert (bomb.starts, node.row("link").restarts, node.row("app").restarts) == (2, 1, 0)
    assert story.lines.count("other up") == 1


async def test_services_and_methods_of_a_crashed_plugin_are_gone(tmp_path: Path) -> None:
    bomb = Bomb(boom)
    slow = replace(FAST, backoff_base_s=60.0, backoff_cap_s=60.0)
    link = made("link", provides=("link.v1",), start=bomb.start, methods=("link.go",))
    async with kernel(tmp_path, link, made("app", requires=("link.v1",)), limits=slow) as node:
        bomb.explode()
        await until_state(node, "link", "failed")
        with pytest.raises(Unavailable, match=r"no running plugin provides link\.v1"):
            node.service(ServiceKey[str]("link.v1"))
        with pytest.raises(Unavailable, match="plugin link is failed: RuntimeError: boom; restart"):
            node.method("link.go")
        await until_state(node, "app", "blocked")
        assert node.row("app").detail == "needs link.v1 of plugin link, which is failed"
        severities = {name: warning.severity for name, warning in node.health()}
        assert severities == {"link": "error", "app": "warning"}
        # restart by hand does not wait for the backoff
        assert (await node.restart("link")).state == "running"


async def test_restarts_are_limited(tmp_path: Path) -> None:
    attempts = 0

    def start(ctx: PluginContext) -> None:
        nonlocal attempts
        attempts += 1
        boom()

    async with kernel(tmp_path, made("bad", start=start)) as node:
        with node.bus.subscribe(PluginChanged) as events:
            async for event in events:
                if isinstance(event, PluginChanged) and "gave up" in event.detail:
                    break
        assert attempts == 6
        assert node.row("bad").detail == "RuntimeError: boom; gave up after 5 restarts in 10 min"
        await node.restart("bad")
        assert attempts == 7


async def test_old_restarts_are_forgotten(tmp_path: Path) -> None:
    clock, bomb = FakeClock(), Bomb(boom)
    async with kernel(tmp_path, made("bad", start=bomb.start), clock=clock) as node:
        for crashes in range(1, 9):
            clock.now += 200.0
            bomb.explode()
            await until_state(node, "bad", "failed")
            await until_state(node, "bad", "running")
            assert node.row("bad").restarts == crashes


async def test_start_that_takes_too_long_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def start(ctx: PluginContext) -> Any:
        return asyncio.Event().wait()

    async with kernel(tmp_path, made("bad", start=start, timeout_s=0.1), made("good")) as node:
        row = node.row("bad")
        assert (row.state, states(node)["good"]) == ("failed", "running")
        assert row.detail.startswith("did not start within 0.1 s; restart 1 of 5")
    assert "plugin bad is slow to start" in caplog.text


async def test_start_that_swallows_its_cancellation_still_ends(tmp_path: Path) -> None:
    story = Story()

    async def start(ctx: PluginContext) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            story.tell("swallowed")

    async with kernel(tmp_path, made("bad", story=story, start=start, timeout_s=0.05)) as node:
        assert node.row("bad").detail.startswith("did not start within")
    assert story.lines[:3] == ["swallowed", "bad up", "bad down"]


async def test_exit_that_hangs_is_cancelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()
    link = made("link", story=story, provides=("link.v1",))
    app = made("app", requires=("link.v1",), stop=lambda _: asyncio.Event().wait())
    async with kernel(tmp_path, app, link) as node:
        pass
    assert states(node) == {"app": "stopped", "link": "stopped"}
    assert "link down" in story
    assert "plugin app does not stop; cancelling it" in caplog.text


async def test_exit_that_swallows_cancellation_once_still_ends(tmp_path: Path) -> None:
    async def stop(ctx: PluginContext) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with kernel(tmp_path, made("bad", stop=stop)) as node:
        pass
    assert states(node) == {"bad": "stopped"}


async def test_task_that_swallows_cancellation_once_still_ends(tmp_path: Path) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    def start(ctx: PluginContext) -> None:
        ctx.tasks.create_task(stubborn())

    async with kernel(tmp_path, made("bad", start=start)) as node:
        await asyncio.sleep(0)
    assert states(node) == {"bad": "stopped"}


async def test_exit_that_never_ends_is_abandoned_and_not_started_again(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def stop(ctx: PluginContext) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with kernel(tmp_path, made("bad", provides=("bad.v1",), stop=stop)) as node:
        row = await node.restart("bad")
        assert (row.state, row.detail) == (
            "failed",
            "its previous run has not stopped; restart the daemon",
        )
        with pytest.raises(Unavailable, match=r"bad\.v1"):
            node.service(ServiceKey[str]("bad.v1"))
        old = next(task for task in asyncio.all_tasks() if task.get_name() == "plugin:bad")
        release.set()
        await asyncio.wait({old}, timeout=5)
        assert (await node.restart("bad")).state == "running"


async def test_exit_that_raises_is_told_and_stops(tmp_path: Path) -> None:
    story = Story()
    async with kernel(
        tmp_path, made("bad", stop=lambda _: boom()), made("good", story=story)
    ) as node:
        pass
    assert states(node) == {"bad": "stopped", "good": "stopped"}
    assert node.row("bad").detail == "failed while stopping: RuntimeError: boom"


async def test_tasks_left_over_are_cancelled_after_the_exit(tmp_path: Path) -> None:
    story = Story()

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            story.tell("task cancelled")

    def start(ctx: PluginContext) -> None:
        ctx.tasks.create_task(run(), name="loop")
        assert "link:loop" in {task.get_name() for task in asyncio.all_tasks()}

    async with kernel(tmp_path, made("link", story=story, start=start)):
        pass
    assert story.lines == ["link up", "link down", "task cancelled"]


async def test_task_cancelled_before_its_first_step_leaves_nothing_behind(tmp_path: Path) -> None:
    async def never() -> None:
        raise AssertionError("it was not to run")

    def start(ctx: PluginContext) -> None:
        ctx.tasks.create_task(never()).cancel()
        raise RuntimeError("at once")

    async with kernel(tmp_path, made("bad", start=start)) as node:
        assert node.row("bad").state == "failed"


async def test_task_that_is_no_coroutine_is_refused(tmp_path: Path) -> None:
    def start(ctx: PluginContext) -> None:
        ctx.tasks.create_task(5)  # type: ignore[arg-type]

    async with kernel(tmp_path, made("bad", start=start)) as node:
        assert node.row("bad").detail.startswith("TypeError: a coroutine was expected, got int")


async def test_dependant_that_falls_with_its_provider_is_blocked_and_not_failed(
    tmp_path: Path,
) -> None:
    bomb = Bomb(boom)
    link_gone = asyncio.Event()

    def app(ctx: PluginContext) -> None:
        async def use() -> None:
            await link_gone.wait()
            raise Unavailable("the link is gone")

        ctx.tasks.create_task(use())

    def broken_link() -> None:
        link_gone.set()
        boom()

    bomb = Bomb(broken_link)
    slow = replace(FAST, backoff_base_s=60.0, backoff_cap_s=60.0)
    async with kernel(
        tmp_path,
        made("link", provides=("link.v1",), start=bomb.start),
        made("app", requires=("link.v1",), start=app),
        limits=slow,
    ) as node:
        bomb.explode()
        await until_state(node, "app", "blocked", "failed")
        assert node.row("app").state == "blocked"
        assert node.row("app").restarts == 0


async def test_wrong_setting_found_at_start_is_not_tried_again(tmp_path: Path) -> None:
    def start(ctx: PluginContext) -> None:
        raise ConfigError("plugins.bad.listen: no such interface")

    async with kernel(tmp_path, made("bad", start=start)) as node:
        row = node.row("bad")
        assert (row.state, row.detail) == ("invalid", "plugins.bad.listen: no such interface")


def breaks() -> object:
    raise ImportError("half installed")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            PluginSource("link", "d", "1", "builtin", breaks),
            "required plugin link is broken: cannot be imported: ImportError: half installed",
        ),
        (
            made("link", start=lambda _: boom()),
            "required plugin link is failed: RuntimeError: boom; restart 1 of 5 in ",
        ),
        (
            made("link", requires=("net.v1",)),
            "required plugin link is blocked: needs net.v1, which no enabled plugin provides",
        ),
        (made("other"), "required plugin link is not installed"),
    ],
)
async def test_required_plugin_that_does_not_start_is_fatal(
    tmp_path: Path, source: PluginSource, text: str
) -> None:
    async with kernel(tmp_path, source, made("good"), required=("link",)) as node:
        assert node.fatal.done()
        assert (await node.fatal).startswith(text)
        assert states(node)["good"] == "running"


async def test_required_plugin_that_is_switched_off_is_fatal(tmp_path: Path) -> None:
    off = {"link": {"enabled": False}}
    async with kernel(tmp_path, made("link"), required=("link",), plugins=off) as node:
        assert await node.fatal == "required plugin link is disabled"


async def test_required_plugin_that_recovers_is_not_fatal(tmp_path: Path) -> None:
    bomb = Bomb(boom)
    async with kernel(tmp_path, made("link", start=bomb.start), required=("link",)) as node:
        bomb.explode()
        await until_state(node, "link", "failed")
        await until_state(node, "link", "running")
        assert not node.fatal.done()
        with pytest.raises(Conflict, match="plugin link is listed in `required`"):
            await node.disable("link")


async def test_required_plugin_is_lost_with_what_it_needs(tmp_path: Path) -> None:
    bomb = Bomb(boom)
    limits = replace(FAST, restarts=0)
    async with kernel(
        tmp_path,
        made("net", provides=("net.v1",), start=bomb.start),
        made("link", provides=("link.v1",), requires=("net.v1",)),
        made("app", requires=("link.v1",)),
        required=("app",),
        limits=limits,
    ) as node:
        assert not node.fatal.done()
        bomb.explode()
        text = await asyncio.wait_for(node.fatal, 5)
        assert text.startswith("required plugin app cannot continue: plugin net is failed: ")


async def test_stopping_is_not_fatal(tmp_path: Path) -> None:
    async with kernel(tmp_path, made("link"), required=("link",)) as node:
        pass
    assert not node.fatal.done()


async def test_workers_end_with_their_plugin(tmp_path: Path) -> None:
    workers: list[FakeWorker] = []

    async def start(ctx: PluginContext) -> None:
        workers.append(await ctx.spawn_worker("m:f", name="one"))  # type: ignore[arg-type]
        workers.append(await ctx.spawn_worker("m:f", name="two"))  # type: ignore[arg-type]

    async with kernel(tmp_path, made("shards", start=start)):
        assert not workers[0].closed.done()
    assert [await worker.closed for worker in workers] == ["closed", "closed"]


@pytest.mark.jump_clock
async def test_worker_that_does_not_close_is_killed(tmp_path: Path) -> None:
    workers: list[FakeWorker] = []

    async def start(ctx: PluginContext) -> None:
        workers.append(await ctx.spawn_worker("m:f", name="one"))  # type: ignore[arg-type]
        workers[0].hangs = True

    async with kernel(tmp_path, made("shards", start=start)):
        pass
    assert workers[0].killed


async def test_command_goes_on_when_its_caller_goes_away(tmp_path: Path) -> None:
    told = asyncio.Event()

    async def stop(ctx: PluginContext) -> None:
        await told.wait()

    async with kernel(tmp_path, made("slow", stop=stop)) as node:
        command = asyncio.create_task(node.restart("slow"))
        await until_state(node, "slow", "stopping")
        command.cancel()
        told.set()
        await until_state(node, "slow", "running")
    assert command.cancelled()


async def test_one_instance_serves_all_runs_of_a_node(tmp_path: Path) -> None:
    instances: list[object] = []

    class Counted:
        def __init__(self) -> None:
            instances.append(self)

        @hookimpl
        def aitorrent_info(self) -> PluginInfo:
            return PluginInfo("counted", "counts itself")

        @hookimpl
        @asynccontextmanager
        async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
            yield

    async with kernel(tmp_path, PluginSource.of(Counted)) as node:
        await node.restart("counted")
        await node.disable("counted")
        await node.enable("counted")
    assert len(instances) == 1


async def test_failure_is_logged_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kernel(tmp_path, made("bad", start=lambda _: boom())):
        pass
    record = next(r for r in caplog.records if "plugin bad failed" in r.getMessage())
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_failure_that_explains_itself_is_logged_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def taken(_: PluginContext) -> None:
        raise Unavailable("port 8468/tcp is taken")

    async with kernel(tmp_path, made("bad", start=taken)):
        pass
    record = next(r for r in caplog.records if "plugin bad failed" in r.getMessage())
    assert record.getMessage() == "plugin bad failed: port 8468/tcp is taken"
    assert record.exc_info is None


async def test_plugin_that_waits_for_its_restart_stops_at_once(tmp_path: Path) -> None:
    slow = replace(FAST, backoff_base_s=60.0, backoff_cap_s=60.0)
    bad, worse = (made(name, start=lambda _: boom()) for name in ("bad", "worse"))
    async with asyncio.timeout(5):
        async with kernel(tmp_path, bad, worse, limits=slow) as node:
            assert states(node) == {"bad": "failed", "worse": "failed"}
            assert (await node.disable("bad")).state == "disabled"
        assert states(node) == {"bad": "disabled", "worse": "stopped"}


async def test_required_plugin_that_is_skipped_is_fatal(tmp_path: Path) -> None:
    def skip(ctx: PluginContext) -> None:
        raise SkipPlugin("no network")

    async with kernel(tmp_path, made("link", start=skip), required=("link",)) as node:
        assert await node.fatal == "required plugin link is skipped: no network"
