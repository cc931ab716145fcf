"""The OpenAI plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from aitorrent_openai.backend import OpenaiBackend
from aitorrent_openai.config import OpenaiConfig
from aitorrentd.api import (
    BACKENDS,
    AitorrentError,
    Check,
    CheckResult,
    PluginContext,
    PluginInfo,
    SkipPlugin,
    hookimpl,
)
from aitorrentd.api.relays.served import poll


class OpenaiPlugin:
    """Registers each configured OpenAI-compatible server as a backend."""

    def __init__(self) -> None:
        self._backends: list[OpenaiBackend] = []

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="openai",
            summary="relays prompts to OpenAI-compatible servers",
            requires=(BACKENDS,),
            config=OpenaiConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Keep a backend registered for each server."""
        config: OpenaiConfig = ctx.config
        if not config.servers:
            raise SkipPlugin("no servers in plugins.openai.servers")
        registry = ctx.service(BACKENDS)
        self._backends = [
            OpenaiBackend(server, clock=ctx.clock, log=ctx.log, node=ctx.identity.peer_id)
            for server in config.servers
        ]
        async with AsyncExitStack() as stack:
            for backend in self._backends:
                stack.push_async_callback(backend.close)
                stack.enter_context(registry.added(backend.name, backend))
                polling = ctx.tasks.create_task(
                    poll(backend, config.poll_s), name=f"poll {backend.name}"
                )
                stack.callback(polling.cancel)
            yield

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that each server answers."""
        return [_check(backend) for backend in self._backends]


def _check(backend: OpenaiBackend) -> Check:
    async def run() -> CheckResult:
        try:
            models = await backend.models()
        except AitorrentError as e:
            return CheckResult("warn", e.message, "Check plugins.openai.servers.")
        count = len(models)
        return CheckResult("ok", f"{backend.name} has {count} model{'' if count == 1 else 's'}")

    return Check(backend.name.removeprefix("openai:"), f"{backend.name} answers", run)
