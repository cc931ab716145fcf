"""Whatever a plugin does wrong, it does to itself alone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    Check,
    CheckResult,
    Method,
    PluginConfig,
    PluginContext,
    PluginInfo,
    ServiceKey,
    WireProtocol,
    hookimpl,
)
from aitorrentd.api.faces.routes import HttpRoute, Scope
from aitorrentd.kernel.found import PluginSource
from tests.support.kernel_plugins import Story, kernel, made, states


async def beside_a_good_one(tmp_path: Path, source: PluginSource) -> tuple[str, str]:
    """State and detail of `source` once all is settled; the good plugin beside it has to run."""
    story = Story()
    async with kernel(tmp_path, source, made("good", story=story)) as node:
        assert states(node)["good"] == "running"
        row = node.row(source.name)
    assert story.lines == ["good up", "good down"]
    return row.state, row.detail


def importing(load: Callable[[], object], **others: Any) -> PluginSource:
    return PluginSource("bad", "bad-dist", "1", "third-party", load, **others)


def raising(error: BaseException) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ImportError("no such thing"), "cannot be imported: ImportError: no such thing"),
        (SyntaxError("what"), "cannot be imported: SyntaxError: what"),
        (SystemExit(3), "cannot be imported: SystemExit: 3"),
        (KeyboardInterrupt(), "cannot be imported: KeyboardInterrupt"),
        (StopIteration(), "cannot be imported: RuntimeError: coroutine raised StopIteration"),
        (
            ModuleNotFoundError("No module named 'x'", name="x"),
            "cannot be imported: ModuleNotFoundError: No module named 'x'",
        ),
    ],
)
async def test_import_that_raises_is_broken(
    tmp_path: Path, error: BaseException, detail: str
) -> None:
    found = await beside_a_good_one(tmp_path, importing(raising(error)))
    assert found == ("broken", detail)


async def test_import_that_hangs_is_broken_and_delays_only(tmp_path: Path) -> None:
    let_go = threading.Event()

    def load() -> object:
        let_go.wait(20)
        return None

    try:
        found = await beside_a_good_one(tmp_path, importing(load))
        assert found == ("broken", "its import took more than 1 s")
    finally:
        let_go.set()


async def test_import_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    let_go = threading.Event()

    def load() -> object:
        assert let_go.wait(20)
        return type("Bad", (Base,), {})

    asyncio.get_running_loop().call_later(0.02, let_go.set)
    assert await beside_a_good_one(tmp_path, importing(load)) == ("running", "")


async def test_missing_extra_is_skipped_with_the_remedy(tmp_path: Path) -> None:
    lacking = ModuleNotFoundError("No module named 'torch'", name="torch.nn")
    source = importing(raising(lacking), extras=("torch",), package="bad")
    found = await beside_a_good_one(tmp_path, source)
    assert found == ("skipped", "aitorrentctl plugin install 'bad-dist[torch]'")


async def test_missing_module_of_its_own_is_broken_in_spite_of_extras(tmp_path: Path) -> None:
    lacking = ModuleNotFoundError("No module named 'bad.hub'", name="bad.hub")
    source = importing(raising(lacking), extras=("torch",), package="bad")
    assert (await beside_a_good_one(tmp_path, source))[0] == "broken"


async def test_entry_point_that_is_no_class_is_broken(tmp_path: Path) -> None:
    found = await beside_a_good_one(tmp_path, importing(lambda: 5))
    assert found == ("broken", "its entry point is int, not a class")


class Base:
    """A plugin without fault, to be spoilt."""

    @hookimpl
    def aitorrent_info(self) -> Any:
        return PluginInfo("bad", "spoilt")


def spoilt(**hooks: Any) -> PluginSource:
    return PluginSource.of(type("Bad", (Base,), hooks), name="bad")


class BadInit(Base):
    def __init__(self) -> None:
        raise SystemExit(1)


def exits(self: object) -> Any:
    raise SystemExit(1)


def interrupts(self: object, ctx: Any) -> Any:
    raise KeyboardInterrupt


def boils(self: object, ctx: Any) -> Any:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        (PluginSource.of(BadInit, name="bad"), "its class raised SystemExit"),
        (
            PluginSource.of(object, name="bad"),
            "it has no aitorrent_info hook, or the hook returned None",
        ),
        (
            spoilt(aitorrent_info=hookimpl(lambda self: {"name": "bad"})),
            "aitorrent_info returned a dict, not a PluginInfo",
        ),
        (
            spoilt(aitorrent_info=hookimpl(lambda self: PluginInfo("worse", "w"))),
            "its PluginInfo is named 'worse', its entry point 'bad'",
        ),
        (
            spoilt(aitorrent_info=hookimpl(lambda self: PluginInfo("bad", "w", ("x",)))),  # type: ignore[arg-type]
            "PluginInfo.provides is not a tuple of ServiceKey",
        ),
        (
            spoilt(aitorrent_info=hookimpl(lambda self: PluginInfo("bad", "w", config=int))),  # type: ignore[arg-type]
            "PluginInfo.config is not a class derived from PluginConfig",
        ),
        (
            spoilt(aitorrent_info=hookimpl(lambda self: PluginInfo("bad", "w", start_timeout_s=0))),
            "PluginInfo.start_timeout_s is not a number above 0 and at most 600",
        ),
        (spoilt(aitorrent_info=hookimpl(exits)), "aitorrent_info raised SystemExit"),
        (
            spoilt(aitorrent_metods=hookimpl(lambda self, ctx: [])),
            "unknown hook aitorrent_metods; did you mean aitorrent_methods?",
        ),
        (
            spoilt(aitorrent_methods=lambda self, ctx: []),
            "aitorrent_methods is not marked with @hookimpl",
        ),
        (
            spoilt(aitorrent_price=hookimpl(wrapper=True)(lambda self: (yield))),
            "aitorrent_price is a hook wrapper; wrappers are not supported",
        ),
    ],
)
async def test_wrong_declaration_is_broken(
    tmp_path: Path, source: PluginSource, detail: str
) -> None:
    assert await beside_a_good_one(tmp_path, source) == ("broken", detail)


async def test_hook_with_an_unknown_argument_is_broken(tmp_path: Path) -> None:
    source = spoilt(aitorrent_methods=hookimpl(lambda self, kernel: []))
    state, detail = await beside_a_good_one(tmp_path, source)
    assert state == "broken"
    assert "kernel" in detail


def method(name: str, **others: Any) -> Method:
    return Method(name, lambda call, params: {}, "a method", **others)


async def handle(stream: Any) -> None:
    return None


def halfway(self: object, ctx: Any) -> Iterator[Method]:
    yield method("bad.one")
    raise ValueError("that was all")


async def asynchronous(self: object, ctx: Any) -> list[Method]:
    return []


@pytest.mark.parametrize(
    ("hook", "answer", "detail"),
    [
        ("aitorrent_methods", [method("good.go")], "method good.go does not start with bad."),
        ("aitorrent_methods", [method("bad")], "method 'bad' is not of the form bad.verb"),
        ("aitorrent_methods", [method("bad.a")] * 2, "method bad.a is declared twice"),
        (
            "aitorrent_methods",
            [method("bad.a", params=dict)],
            "params and result of method bad.a must be pydantic models",
        ),
        (
            "aitorrent_methods",
            [method("bad.a", role=2)],
            "the role of method bad.a is a int, not a Role",
        ),
        (
            "aitorrent_methods",
            [Method("bad.a", 5, "x")],  # type: ignore[arg-type]
            "the handler of method bad.a cannot be called",
        ),
        ("aitorrent_methods", ["bad.a"], "aitorrent_methods lists a str, not a Method"),
        ("aitorrent_methods", 7, "aitorrent_methods returned a int, not a list of Method"),
        ("aitorrent_methods", "abc", "aitorrent_methods returned a str, not a list of Method"),
        (
            "aitorrent_methods",
            itertools.repeat(method("bad.a")),
            "aitorrent_methods lists more than 1000 items",
        ),
        (
            "aitorrent_protocols",
            [WireProtocol("", handle)],
            "protocol id '' is not a string of 1 to",
        ),
        ("aitorrent_protocols", [WireProtocol("/a/1", handle)] * 2, "protocol /a/1 is declared tw"),
        (
            "aitorrent_protocols",
            [WireProtocol("/a/1", handle, max_streams=0)],
            "max_streams of protocol /a/1 is not an integer of at least 1",
        ),
        ("aitorrent_checks", [5], "aitorrent_checks lists a int, not a Check"),
    ],
)
async def test_wrong_contribution_is_broken(
    tmp_path: Path, hook: str, answer: Any, detail: str
) -> None:
    source = spoilt(**{hook: hookimpl(lambda self, ctx: answer)})
    state, text = await beside_a_good_one(tmp_path, source)
    assert state == "broken"
    assert text.startswith(detail)


async def test_asynchronous_hook_is_broken_and_leaves_no_coroutine(tmp_path: Path) -> None:
    source = spoilt(aitorrent_methods=hookimpl(asynchronous))
    state, text = await beside_a_good_one(tmp_path, source)
    assert (state, text) == (
        "broken",
        "aitorrent_methods returned a coroutine, not a list of Method",
    )


async def test_asynchronous_lifespan_hook_is_broken_and_leaves_no_coroutine(tmp_path: Path) -> None:
    source = spoilt(aitorrent_lifespan=hookimpl(asynchronous))
    assert (await beside_a_good_one(tmp_path, source)) == (
        "broken",
        "aitorrent_lifespan returned a coroutine, not an async context manager",
    )


@pytest.mark.parametrize(
    ("hook", "function", "detail"),
    [
        ("aitorrent_methods", interrupts, "aitorrent_methods raised KeyboardInterrupt"),
        ("aitorrent_routes", boils, "RuntimeError: boom"),
        ("aitorrent_methods", halfway, "ValueError: that was all"),
        ("aitorrent_lifespan", interrupts, "aitorrent_lifespan raised KeyboardInterrupt"),
    ],
)
async def test_hook_that_raises_fails_its_plugin(
    tmp_path: Path, hook: str, function: Any, detail: str
) -> None:
    state, text = await beside_a_good_one(tmp_path, spoilt(**{hook: hookimpl(function)}))
    assert state == "failed"
    assert text.startswith(detail + "; restart 1 of 5")


async def test_protocol_of_another_plugin_is_refused(tmp_path: Path) -> None:
    class First:
        @hookimpl
        def aitorrent_info(self) -> PluginInfo:
            return PluginInfo("first", "answers", provides=(ServiceKey[Any]("first.v1"),))

        @hookimpl
        def aitorrent_protocols(self) -> list[WireProtocol]:
            return [WireProtocol("/a/1", handle)]

    class Second(First):
        @hookimpl
        def aitorrent_info(self) -> PluginInfo:
            return PluginInfo("second", "too", wants=(ServiceKey[Any]("first.v1"),))

    async with kernel(tmp_path, PluginSource.of(First), PluginSource.of(Second)) as node:
        assert node.row("second").detail == "protocol /a/1 is already handled by plugin first"
        assert [(name, each.id) for name, each in node.protocols()] == [("first", "/a/1")]


async def test_lifespan_that_is_no_context_manager_is_broken(tmp_path: Path) -> None:
    async def bare(self: object, ctx: Any) -> AsyncIterator[None]:
        yield

    source = spoilt(aitorrent_lifespan=hookimpl(bare))
    state, detail = await beside_a_good_one(tmp_path, source)
    assert state == "broken"
    assert detail.endswith("not an async context manager; put @asynccontextmanager on it")


async def test_plugin_without_lifespan_runs(tmp_path: Path) -> None:
    assert await beside_a_good_one(tmp_path, spoilt()) == ("running", "")


async def test_undeclared_service_is_broken(tmp_path: Path) -> None:
    def start(ctx: PluginContext) -> None:
        ctx.provide(ServiceKey[str]("secret.v1"), "x")

    found = await beside_a_good_one(tmp_path, made("bad", start=start))
    assert found == (
        "broken",
        "plugin bad provides secret.v1, which is not in its PluginInfo.provides",
    )


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        (SystemExit(2), "SystemExit: 2"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (
            ExceptionGroup("two", [OSError(98, "port 8468 is taken"), ValueError()]),
            "OSError: [Errno 98] port 8468 is taken (and 1 more)",
        ),
    ],
)
async def test_lifespan_that_raises_at_start_fails_its_plugin(
    tmp_path: Path, error: BaseException, detail: str
) -> None:
    def start(ctx: PluginContext) -> None:
        raise error

    state, text = await beside_a_good_one(tmp_path, made("bad", start=start))
    assert state == "failed"
    assert text.startswith(detail)


async def test_settings_model_that_raises_is_invalid(tmp_path: Path) -> None:
    class Odd(PluginConfig):
        def model_post_init(self, context: Any, /) -> None:
            raise SystemExit(4)

    found = await beside_a_good_one(tmp_path, made("bad", config=Odd))
    assert found == ("invalid", "its settings model failed: its settings model raised SystemExit")


async def test_checks_and_routes_of_running_plugins_are_listed(tmp_path: Path) -> None:
    async def run() -> CheckResult:
        return CheckResult("ok", "fine")

    async def answer(request: Any) -> Any:
        return None

    check = Check("port-free", "the port is free", run)
    route = HttpRoute("/a", frozenset({"GET"}), answer, Scope.PUBLIC, "answers")
    source = spoilt(
        aitorrent_checks=hookimpl(lambda self, ctx: [check]),
        aitorrent_routes=hookimpl(lambda self, ctx: (route,)),
    )
    async with kernel(tmp_path, source) as node:
        assert node.checks() == [("bad", check)]
        assert node.routes() == (("bad", route),)
        assert node.routes() is node.routes()
        await node.disable("bad")
        assert (node.checks(), node.routes()) == ([], ())


async def test_health_hook_that_raises_is_itself_a_warning(tmp_path: Path) -> None:
    async with kernel(tmp_path, spoilt(aitorrent_health=hookimpl(boils))) as node:
        texts = [(name, warning.text) for name, warning in node.health()]
        assert texts == [("bad", "its health hook failed: RuntimeError: boom")]


async def test_class_based_lifespan_serves_as_well(tmp_path: Path) -> None:
    @hookimpl
    @asynccontextmanager
    async def lifespan(self: object, ctx: PluginContext) -> AsyncIterator[None]:
        async with asyncio.TaskGroup():
            yield

    assert (await beside_a_good_one(tmp_path, spoilt(aitorrent_lifespan=lifespan)))[0] == "running"
