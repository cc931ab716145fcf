"""The paths of OpenAI's dialect. What answers them is imported with the first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from aitorrent_gateway.config import GatewayConfig
from aitorrent_gateway.core.aliases import Aliases
from aitorrent_gateway.core.documents import later
from aitorrent_gateway.core.naming import inference_of
from aitorrentd.api import Inference, PluginContext
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.routes import HttpRoute, Scope

if TYPE_CHECKING:
    from starlette.requests import Request

CHAT_BYTES: Final = 8 * 2**20
"The largest conversation: agents begin with 50 kB, and images travel in it."

_ANSWERS: Final = "aitorrent_gateway.openai.answer_schemas"
_RESPONSES: Final = "aitorrent_gateway.openai.responses.answer_schemas"


class OpenAiRoutes:
    """Answers for one node."""

    def __init__(self, ctx: PluginContext, aliases: Aliases) -> None:
        self._ctx, self._aliases = ctx, aliases
        self._began = int(ctx.clock.time())

    def routes(self) -> list[HttpRoute]:
        """What the HTTP server mounts."""
        get = frozenset({"GET"})
        chat = self._post(
            "/v1/chat/completions",
            self._chat,
            "OpenAI: the next turn of a conversation.",
            later("aitorrent_gateway.openai.requests", "chat_body"),
            later(_ANSWERS, "chat"),
        )
        completions = self._post(
            "/v1/completions",
            self._completions,
            "OpenAI: the continuation of a text.",
            later("aitorrent_gateway.openai.requests", "completion_body"),
            later(_ANSWERS, "completion"),
        )
        responses = self._post(
            "/v1/responses",
            self._responses,
            "OpenAI: the next items of a conversation.",
            later("aitorrent_gateway.openai.responses.requests", "response_body"),
            later(_RESPONSES, "response"),
        )
        input_tokens = self._post(
            "/v1/responses/input_tokens",
            self._input_tokens,
            "OpenAI: how long the input of a response is.",
            later("aitorrent_gateway.openai.responses.requests", "response_body"),
            later(_RESPONSES, "input_tokens"),
        )
        embeddings = self._post(
            "/v1/embeddings",
            self._embeddings,
            "OpenAI: texts as vectors.",
            later("aitorrent_gateway.openai.embeddings", "embeddings_body"),
            later(_ANSWERS, "embeddings"),
        )
        models = HttpRoute(
            "/v1/models",
            get,
            self._models,
            Scope.GENERATE,
            "OpenAI: models that can answer.",
            browser=True,
            answers=later(_ANSWERS, "models"),
        )
        model = HttpRoute(
            "/v1/models/{model:path}",
            get,
            self._model,
            Scope.GENERATE,
            "OpenAI: one model.",
            browser=True,
            answers=later(_ANSWERS, "model"),
        )
        return [chat, completions, responses, input_tokens, embeddings, models, model]

    def _post(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[App]],
        summary: str,
        body: Callable[[], Mapping[str, Any]],
        answers: Callable[[], Mapping[str, Any]],
    ) -> HttpRoute:
        config: GatewayConfig = self._ctx.config
        return HttpRoute(
            path,
            frozenset({"POST"}),
            endpoint,
            Scope.GENERATE,
            summary,
            max_body=CHAT_BYTES,
            slots=config.requests,
            browser=True,
            body=body,
            answers=answers,
        )

    @property
    def _inference(self) -> Inference:
        return inference_of(self._ctx, self._aliases)

    async def _chat(self, request: Request) -> App:
        from aitorrent_gateway.openai import answering

        return await answering.chat(request, self._inference, self._ctx.clock)

    async def _completions(self, request: Request) -> App:
        from aitorrent_gateway.openai import answering

        return await answering.completions(request, self._inference, self._ctx.clock)

    async def _responses(self, request: Request) -> App:
        from aitorrent_gateway.openai.responses import answering

        return await answering.responses(request, self._inference, self._ctx.clock)

    async def _input_tokens(self, request: Request) -> App:
        from aitorrent_gateway.openai.responses import answering

        return await answering.input_tokens(request, self._inference)

    async def _embeddings(self, request: Request) -> App:
        from aitorrent_gateway.openai import embeddings

        return await embeddings.embeddings(request, self._inference)

    async def _models(self, request: Request) -> App:
        from aitorrent_gateway.openai import models

        return await models.listed(self._inference, self._began)

    async def _model(self, request: Request) -> App:
        from aitorrent_gateway.openai import models

        return await models.one(self._inference, self._began, request.path_params["model"])
