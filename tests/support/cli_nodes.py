"""A real node in its own thread, for tests that run `aitorrentctl` in this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import yaml

from aitorrentd.api import (
    CallContext,
    End,
    HealthWarning,
    Method,
    NoParams,
    PluginConfig,
    PluginContext,
    PluginInfo,
    Unavailable,
    hookimpl,
)
from aitorrentd.config import Config
from aitorrentd.kernel.found import PluginSource
from aitorrentd.node import Node

T = TypeVar("T")


class Ran(NamedTuple):
    """The result of a command line."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Ctl = Callable[..., Ran]


class CountConfig(PluginConfig):
    port: int = 5
    lame: bool = False


class CountPlugin:
    """A plugin with a stream, a call that never ends, and a health warning."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("count", "Counts.", config=CountConfig)

    @hookimpl
    def aitorrent_lifespan(self, ctx: PluginContext) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def life() -> AsyncIterator[None]:
            ctx.log.warning("counting starts\nwith a second line")
            if ctx.config.lame:
                raise Unavailable("it cannot count")
            yield

        return life()

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        async def up(call: CallContext, params: NoParams) -> AsyncIterator[Any]:
            for n in range(3):
                yield {"n": n}
            yield End({"count": 3})

        async def forever(call: CallContext, params: NoParams) -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        return [Method("count.up", up, "Count.", stream=True), Method("count.on", forever, "Wait.")]

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        return [HealthWarning("tired", "counting is tiring")]


class NodeThread:
    """A node that runs for its `with` block; `config` is merged over a private one."""

    def __init__(self, directory: Path, plugins: Mapping[str, Any] | None = None) -> None:
        self.socket = directory / "control.sock"
        self.file = directory / "aitorrent.yaml"
        tree = {
            "version": 1,
            "node": {"state_dir": str(directory / "state"), "name": "tester"},
            "control": {"socket": str(self.socket)},
            "plugins": dict(plugins or {}),
        }
        self.file.write_text(yaml.safe_dump(tree))
        self.node: Node | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="node")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(20)
        if self._failure is not None:
            self._thread.join(20)
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the node unless it has stopped already."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def do(self, work: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the node's loop."""
        assert self._loop is not None
        assert self.node is not None
        return asyncio.run_coroutine_threadsafe(work(self.node), self._loop).result(20)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as e:
            self._failure = e
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = Config.load(self.file, environ={"HOME": str(self.file.parent)})
        async with Node(config, sources=[PluginSource.of(CountPlugin)]) as self.node:
            self._is_ready.set()
            await self._stop.wait()
