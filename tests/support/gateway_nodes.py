"""Nodes with the OpenAI API over a backend of a test."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aitorrent_gateway.plugin import GatewayPlugin
from aitorrent_inference.plugin import InferencePlugin
from aitorrentd.api import (
    BACKENDS,
    Backend,
    Chunk,
    GenerateRequest,
    InvalidParams,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.api.models.features import FEATURES, Feature, lacking
from aitorrentd.node import Node
from tests.support.http_nodes import http_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

DOCS: Final = Path(__file__).parents[2] / "docs"


def code_blocks(page: str, *languages: str) -> list[str]:
    """The code in these languages on a page of the documentation."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```(?:{'|'.join(languages)})\n(.*?)^```$", text)


class BackendPlugin:
    """Adds a backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("fake", "a backend for tests", requires=(BACKENDS,))

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        with ctx.service(BACKENDS).added(self._backend.name, self._backend):
            yield


class ScriptedBackend(FakeBackend):
    """Answers every request with these chunks, and refuses what its features lack."""

    def __init__(
        self, *script: Chunk, can: frozenset[Feature] = FEATURES, models: Sequence[str] = ("m",)
    ) -> None:
        super().__init__("scripted", models)
        self.script = script
        self.can = can

    def features(self) -> frozenset[Feature]:
        return self.can

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        if refused := lacking(self, request):
            names = ", ".join(refused)
            raise InvalidParams(f"scripted cannot apply {names}", params=list(refused))
        for chunk in self.script:
            yield chunk


async def gateway_node(factory: NodeFactory, backend: Backend, **settings: Any) -> tuple[Node, str]:
    """A node whose API answers from `backend`, and its address."""
    plugins: Mapping[str, Any] = {
        "inference": InferencePlugin(),
        "gateway": GatewayPlugin(),
        "fake": BackendPlugin(backend),
    }
    return await http_node(factory, *plugins.items(), **settings)
