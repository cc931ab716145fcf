"""The Ollama plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_ollama.backend import OllamaBackend
from aitorrent_ollama.config import OllamaConfig
from aitorrentd.api import (
    BACKENDS,
    AitorrentError,
    Check,
    CheckResult,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.api.relays.served import poll


class OllamaPlugin:
    """Registers an Ollama server as a backend. It runs whether or not Ollama does."""

    def __init__(self) -> None:
        self._backend: OllamaBackend | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="ollama",
            summary="relays prompts to a local Ollama",
            requires=(BACKENDS,),
            config=OllamaConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Keep the backend registered and detect when Ollama starts or stops."""
        config: OllamaConfig = ctx.config
        backend = self._backend = OllamaBackend(
            config, clock=ctx.clock, log=ctx.log, node=ctx.identity.peer_id
        )
        with ctx.service(BACKENDS).added(backend.name, backend):
            polling = ctx.tasks.create_task(poll(backend, config.poll_s), name="ollama: poll")
            try:
                yield
            finally:
                polling.cancel()
                await backend.close()

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that Ollama answers."""
        backend = self._backend
        if backend is None:
            return []

        async def run() -> CheckResult:
            try:
                models = await backend.models()
            except AitorrentError as e:
                return CheckResult("warn", e.message, "Start Ollama, or disable this plugin.")
            if not models:
                return CheckResult("warn", "Ollama has no models", "Get one: ollama pull llama3.2")
            return CheckResult(
                "ok", f"Ollama has {len(models)} model{'' if len(models) == 1 else 's'}"
            )

        return [Check("server", "Ollama answers", run)]
