"""A third-party distribution with misbehaving plugins, for daemons that tests start.

`install(directory)` writes it there; put the directory on PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MODULE: Final = """
import asyncio, time
from contextlib import asynccontextmanager
from typing import Literal
from pydantic import BaseModel
from aitorrentd.api import (CheckResult, Check, HealthWarning, Method, NoParams, PluginConfig,
    PluginInfo, Role, Unavailable, hookimpl)


class OddConfig(PluginConfig):
    way: Literal["well", "hang_loop", "fail", "slow_start", "slow_stop", "spawn"] = "well"
    seconds: float = 0.0
    psk: str = "default-psk"


class Odd:
    @hookimpl
    def aitorrent_info(self):
        return PluginInfo("odd", "behaves as it is told", config=OddConfig)

    @hookimpl
    def aitorrent_lifespan(self, ctx):
        return self.run(ctx)

    @asynccontextmanager
    async def run(self, ctx):
        config = ctx.config
        ctx.log.info("my secret is %s", config.psk)
        if config.way == "fail":
            raise Unavailable("port 8468/tcp is taken (EADDRINUSE); set plugins.odd.port")
        if config.way == "slow_start":
            await asyncio.sleep(config.seconds)
        yield
        if config.way == "slow_stop":
            await asyncio.sleep(config.seconds)

    @hookimpl
    def aitorrent_methods(self, ctx):
        def block(call, params):
            time.sleep(ctx.config.seconds)
            return {}

        def shown(call, params):
            return {"way": ctx.config.way, "seconds": ctx.config.seconds}

        return [
            Method("odd.block", block, "Hold up the event loop."),
            Method("odd.shown", shown, "Show the settings."),
        ]

    @hookimpl
    def aitorrent_checks(self, ctx):
        async def bad():
            raise RuntimeError("a bug in a check")

        async def good():
            return CheckResult("warn", "it is odd", "leave it out")

        return [Check("bad", "fails", bad), Check("good", "works", good)]

    @hookimpl
    def aitorrent_health(self, ctx):
        return [HealthWarning("odd", "it is odd")]
"""

_ENTRY_POINTS: Final = "[aitorrentd.plugins]\nodd = odd_plugin:Odd\n"


def install(directory: Path) -> dict[str, str]:
    """Write the distribution to `directory`; returns the environment variables to find it."""
    info = directory / "odd_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (directory / "odd_plugin.py").write_text(_MODULE, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    return {"PYTHONPATH": str(directory)}
