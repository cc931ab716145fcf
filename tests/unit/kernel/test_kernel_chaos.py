"""Plugins that crash, stop and start at random never leave the kernel in a wrong state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import AitorrentError, PluginContext, PluginInfo, ServiceKey, hookimpl
from aitorrentd.kernel.found import PluginSource
from aitorrentd.kernel.kernel import Kernel
from tests.support.kernel_plugins import FAST, kernel, until_state

NAMES = "abcdefgh"
ACTIONS = 60


class World:
    """Random plugins that watch each other's rules."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.up: set[str] = set()
        self.bombs: dict[str, asyncio.Event] = {}
        self.broken_rules: list[str] = []
        # a plugin depends only on those before it, so there are no loops
        self.requires = {n: self._some(NAMES[:i]) for i, n in enumerate(NAMES)}
        self.wants = {n: self._some(NAMES[:i]) - self.requires[n] for i, n in enumerate(NAMES)}

    def _some(self, names: str) -> set[str]:
        return {name for name in names if self.rng.random() < 0.3}

    def source(self, name: str) -> PluginSource:
        world = self

        def keys(names: set[str]) -> tuple[ServiceKey[Any], ...]:
            return tuple(ServiceKey[Any](f"{n}.v1") for n in sorted(names))

        class Random:
            @hookimpl
            def aitorrent_info(self) -> PluginInfo:
                return PluginInfo(
                    name,
                    "acts at random",
                    provides=keys({name}),
                    requires=keys(world.requires[name]),
                    wants=keys(world.wants[name]),
                )

            @hookimpl
            @asynccontextmanager
            async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
                await world.nap()
                for needed in world.requires[name]:
                    if ctx.service(ServiceKey[str](f"{needed}.v1")) != needed:
                        world.broken_rules.append(f"{name} started without {needed}")
                if world.rng.random() < 0.1:
                    raise RuntimeError("no luck")
                ctx.provide(keys({name})[0], name)
                ctx.tasks.create_task(world.wait_for_bomb(name))
                world.up.add(name)
                try:
                    yield
                    # an orderly stop: nobody who requires this plugin may be left
                    for user in sorted(world.up):
                        if name in world.requires[user]:
                            world.broken_rules.append(f"{name} stopped before {user}")
                finally:
                    world.up.discard(name)
                await world.nap()

        return PluginSource.of(Random, name=name)

    async def nap(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)

    async def wait_for_bomb(self, name: str) -> None:
        self.bombs[name] = asyncio.Event()
        await self.bombs[name].wait()
        raise RuntimeError("boom")

    async def act(self, node: Kernel) -> None:
        name = self.rng.choice(NAMES)
        action = self.rng.choice(["crash", "disable", "enable", "restart"])
        if action == "crash":
            if name in self.bombs:
                self.bombs[name].set()
        else:
            try:
                await getattr(node, action)(name)
            except AitorrentError as e:
                assert e.code == "conflict", e


@pytest.mark.parametrize("seed", range(8))
async def test_chaos_ends_with_every_plugin_running(tmp_path: Path, seed: int) -> None:
    world = World(seed)
    limits = replace(FAST, restarts=1000, backoff_base_s=0.001, backoff_cap_s=0.002)
    async with asyncio.timeout(30):
        async with kernel(tmp_path, *map(world.source, NAMES), limits=limits) as node:
            async with asyncio.TaskGroup() as actions:
                for _ in range(ACTIONS):
                    actions.create_task(world.act(node))
                    await world.nap()
            for name in NAMES:
                await node.enable(name)
            for name in NAMES:
                await until_state(node, name, "running")
            assert world.up == set(NAMES)
            for name in NAMES:
                assert node.service(ServiceKey[str](f"{name}.v1")) == name
    assert world.broken_rules == []
    assert world.up == set()
    left = {task.get_name().partition(":")[0] for task in asyncio.all_tasks()}
    assert not left & {"plugin", "supervise", *NAMES}
