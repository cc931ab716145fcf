"""The inference plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_inference.config import InferenceConfig
from aitorrent_inference.health import can_answer, warnings
from aitorrent_inference.methods import inference_methods
from aitorrent_inference.metrics import FAMILIES
from aitorrent_inference.peers.generate_protocol import PROTOCOL
from aitorrent_inference.peers.measure_protocol import COUNT_TOKENS, EMBED
from aitorrent_inference.service import InferenceService, running
from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    INFERENCE,
    PROTECTION,
    TRANSPORT,
    Check,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    WireProtocol,
    hookimpl,
)
from aitorrentd.api.monitoring.metrics import Metric


class InferencePlugin:
    """Routes prompts to backends and peers, and answers peers' prompts."""

    def __init__(self) -> None:
        self._service: InferenceService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="inference",
            summary="answers prompts through local backends and peers",
            provides=(BACKENDS, INFERENCE),
            wants=(TRANSPORT, DIRECTORY, PROTECTION),
            config=InferenceConfig,
            metrics=FAMILIES,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Answer prompts while the plugin runs."""
        async with running(ctx) as self._service:
            yield

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """The methods `inference.*`."""
        if self._service is None:
            return []
        return inference_methods(
            self._service.router,
            clock=ctx.clock,
            node=ctx.identity.peer_id,
            node_name=ctx.node_name,
        )

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        """`/ai-torrent/1/generate`, `count-tokens` and `embed`."""
        if self._service is None:
            return []
        handler = self._service.handler
        # More streams than answers, so that excess requests get "Too many requests".
        spare = handler.slots.limit + 27
        return [
            WireProtocol(PROTOCOL, handler, max_streams=spare),
            WireProtocol(COUNT_TOKENS, handler.counting, max_streams=spare),
            WireProtocol(EMBED, handler.embedding, max_streams=spare),
        ]

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that something can answer a prompt."""
        return [can_answer(self._service.router)] if self._service is not None else []

    @hookimpl
    def aitorrent_metrics(self) -> Iterable[Metric]:
        """What the answers are measured by."""
        return self._service.router.metrics.read() if self._service is not None else ()

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """A warning while nothing here or on connected peers can answer."""
        return warnings(self._service.router.catalogue) if self._service is not None else []
