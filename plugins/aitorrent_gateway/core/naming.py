"""Further names of models, for clients that insist on a name.

Claude Code lists only models whose names begin with `claude`, for instance.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from aitorrent_gateway.core.aliases import Aliases
from aitorrentd.api import (
    INFERENCE,
    Chunk,
    GenerateRequest,
    Inference,
    ModelView,
    PluginContext,
)
from aitorrentd.api.models.embeddings import Embeddings, EmbedRequest


def inference_of(ctx: PluginContext, aliases: Aliases) -> Inference:
    """The router, which also knows the further names.

    Raises:
        Unavailable: the inference plugin is not running.
    """
    inference, names = ctx.service(INFERENCE), aliases.names()
    return Renamed(inference, names) if names else inference


def own_name(inference: Inference, name: str) -> str:
    """The model's own name, for one of its names."""
    return inference.own_name(name) if isinstance(inference, Renamed) else name


class Renamed:
    """A router whose models have further names."""

    def __init__(self, inference: Inference, aliases: Mapping[str, str]) -> None:
        """`aliases` are the models' own names, by their further names."""
        self._inference = inference
        self._aliases = aliases

    def own_name(self, name: str) -> str:
        """The model's own name."""
        return self._aliases.get(name, name)

    async def default_model(self) -> str:
        """The model that an empty name means, under its own name."""
        return await self._inference.default_model()

    async def models(self) -> Sequence[ModelView]:
        """Each model, under all of its names."""
        return self._named(await self._inference.models())

    def generate(
        self, request: GenerateRequest, *, backend: str | None = None
    ) -> AsyncIterator[Chunk]:
        """The answer of the model that has this name."""
        return self._inference.generate(self._own(request), backend=backend)

    async def count_tokens(self, request: GenerateRequest, *, backend: str | None = None) -> int:
        """Tokens of the prompt, for the model that has this name."""
        return await self._inference.count_tokens(self._own(request), backend=backend)

    async def embedding_models(self) -> Sequence[ModelView]:
        """Each model, under all of its names."""
        return self._named(await self._inference.embedding_models())

    async def embed(self, request: EmbedRequest, *, backend: str | None = None) -> Embeddings:
        """The vectors of the model that has this name."""
        if request.model in self._aliases:
            request = request.model_copy(update={"model": self._aliases[request.model]})
        return await self._inference.embed(request, backend=backend)

    def _own(self, request: GenerateRequest) -> GenerateRequest:
        if request.model not in self._aliases:
            return request
        return request.model_copy(update={"model": self._aliases[request.model]})

    def _named(self, views: Sequence[ModelView]) -> list[ModelView]:
        found = [view for view in views if view.name not in self._aliases]
        for alias, name in self._aliases.items():
            found += [replace(view, name=alias) for view in views if view.name == name]
        return found
