"""What Ollama's clients ask about models: which there are, what one is, which are in memory."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.fields import present
from aitorrent_gateway.core.models import answering_models
from aitorrent_gateway.ollama import models, names
from aitorrent_gateway.ollama.requests import model_of
from aitorrentd.api import Backend, Inference, ModelView, Registry
from aitorrentd.api.models.features import KnowsFeatures


class Listing:
    """Answers about models."""

    def __init__(
        self, inference: Inference, backends: Registry[Backend] | None, began_s: float
    ) -> None:
        self._inference = inference
        self._backends = backends
        self._began_s = began_s

    async def tags(self) -> JSONResponse:
        """GET /api/tags."""
        answering, embedding = await names.known(self._inference)
        rows = [models.tag(view, self._able(view), self._began_s) for view in answering]
        able = models.capabilities(None, is_embedding=True)
        rows += [models.tag(view, able, self._began_s) for view in embedding]
        return JSONResponse({"models": rows})

    async def ps(self, now_s: float) -> JSONResponse:
        """GET /api/ps: models whose layers are in the memory of nodes, unless they left this
        node's."""
        views = await answering_models(self._inference)
        there = [view for view in views if view.layers and not view.is_resting]
        return JSONResponse({"models": [models.loaded(view, now_s) for view in there]})

    async def show(self, request: Request) -> JSONResponse:
        """POST /api/show.

        Raises:
            NotFound: there is no such model. Unavailable: it cannot answer now.
        """
        fields = present(json_object(await request.body()))
        name = model_of(fields)
        answering, embedding = await names.known(self._inference)
        view = names.pick(name, answering + embedding)
        if view is None:
            raise names.absent(self._inference, name, self._backends)
        able = models.capabilities(None, is_embedding=True)
        if view in answering:
            able = self._able(view)
        return JSONResponse(models.shown(view, able, self._began_s))

    def _able(self, view: ModelView) -> list[str]:
        features = None
        if self._backends is not None and view.backend in self._backends.names():
            backend = self._backends.get(view.backend)
            if isinstance(backend, KnowsFeatures):
                features = backend.features() - view.lacks
        return models.capabilities(features)
