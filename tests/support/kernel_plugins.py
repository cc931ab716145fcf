"""Kernels and small plugins for tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aitorrentd.api import (
    Method,
    NoParams,
    PeerId,
    PluginConfig,
    PluginContext,
    PluginInfo,
    ServiceKey,
    hookimpl,
)
from aitorrentd.api.events import PluginChanged
from aitorrentd.kernel.found import PluginSource
from aitorrentd.kernel.kernel import Kernel, KernelSettings
from aitorrentd.kernel.supervisor import Limits

FAST = Limits(
    load_s=1.0,
    slow_start_s=0.05,
    stop_s=0.2,
    cancel_s=0.05,
    cancels=2,
    backoff_base_s=0.01,
    backoff_cap_s=0.02,
)


class Identity:
    """A signer with worthless signatures."""

    peer_id = PeerId("12D3KooWtest")
    public_key = bytes(32)

    def sign(self, domain: str, message: bytes) -> bytes:
        return domain.encode() + message

    def agree(self, domain: str, public_key: bytes) -> bytes:
        return bytes(32)


class FakeWorker:
    """A worker without a process."""

    pid = 1

    def __init__(self) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.killed = False
        self.hangs = False

    async def request(self, header: Any, tail: Any = b"", *, timeout_s: float = 60.0) -> Any:
        raise AssertionError("no request is expected")

    def kill(self) -> None:
        self.killed = True
        self._end("killed")

    def _end(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)

    async def close(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        self._end("closed")


def settings(
    tmp_path: Path, plugins: Mapping[str, Any] | None = None, required: tuple[str, ...] = ()
) -> KernelSettings:
    async def spawn(entry: str, *, name: str, env: Any = None, sandbox: bool = False) -> Any:
        return FakeWorker()

    return KernelSettings(
        plugins=plugins or {},
        required=required,
        network="test",
        data_dir=tmp_path / "data",
        cache_dir=tmp_path / "cache",
        runtime_dir=tmp_path / "run",
        spawn_worker=spawn,
    )


def kernel(
    tmp_path: Path,
    *sources: PluginSource,
    plugins: Mapping[str, Any] | None = None,
    required: tuple[str, ...] = (),
    limits: Limits = FAST,
    **others: Any,
) -> Kernel:
    return Kernel(
        settings=settings(tmp_path, plugins, required),
        identity=Identity(),
        sources=sources,
        rng=random.Random(1),
        limits=limits,
        **others,
    )


@dataclass
class Story:
    """The actions of plugins, in order."""

    lines: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        self.lines.append(line)

    def __contains__(self, line: str) -> bool:
        return line in self.lines

    def before(self, first: str, second: str) -> bool:
        return self.lines.index(first) < self.lines.index(second)


Behaviour = Callable[[PluginContext], Any]


def made(
    name: str,
    *,
    story: Story | None = None,
    provides: tuple[str, ...] = (),
    requires: tuple[str, ...] = (),
    wants: tuple[str, ...] = (),
    config: type[PluginConfig] = PluginConfig,
    start: Behaviour | None = None,
    stop: Behaviour | None = None,
    methods: tuple[str, ...] = (),
    timeout_s: float = 5.0,
    dist: str = "aitorrentd",
    provides_itself: bool = True,
) -> PluginSource:
    """A plugin that provides its declared services, unless its `start` does so.

    `start` and `stop` may be async functions.
    """
    keys = {key: ServiceKey[Any](key) for key in (*provides, *requires, *wants)}

    class Made:
        @hookimpl
        def aitorrent_info(self) -> PluginInfo:
            return PluginInfo(
                name,
                f"test plugin {name}",
                provides=tuple(keys[k] for k in provides),
                requires=tuple(keys[k] for k in requires),
                wants=tuple(keys[k] for k in wants),
                config=config,
                start_timeout_s=timeout_s,
            )

        @hookimpl
        @asynccontextmanager
        async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
            if start is not None:
                await _run(start, ctx)
            for key in provides if provides_itself else ():
                ctx.provide(keys[key], f"{key} of {name}")
            if story is not None:
                story.tell(f"{name} up")
            try:
                yield
            finally:
                if story is not None:
                    story.tell(f"{name} down")
                if stop is not None:
                    await _run(stop, ctx)

        @hookimpl
        def aitorrent_methods(self) -> list[Method]:
            return [Method(m, lambda call, params: {}, "a test method", NoParams) for m in methods]

    return PluginSource.of(Made, name=name, dist=dist)


async def _run(behaviour: Behaviour, ctx: PluginContext) -> None:
    result = behaviour(ctx)
    if asyncio.iscoroutine(result):
        await result


async def until_state(node: Kernel, name: str, *states: str, timeout_s: float = 5.0) -> None:
    """Wait until plugin `name` is in one of `states`."""
    async with asyncio.timeout(timeout_s):
        with node.bus.subscribe(PluginChanged) as events:
            while node.row(name).state not in states:
                await anext(events)


def states(node: Kernel) -> dict[str, str]:
    return {row.name: row.state for row in node.rows()}
