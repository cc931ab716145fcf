"""The paths for games. What answers them is imported with the first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aitorrent_gateway.core.aliases import Aliases
from aitorrent_gateway.core.documents import later
from aitorrent_gateway.core.naming import inference_of
from aitorrent_gateway.images.drawing import Drawing
from aitorrentd.api import Inference, PluginContext
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.routes import HttpRoute, Scope

if TYPE_CHECKING:
    from starlette.requests import Request

    from aitorrent_gateway.seed.answering import Games

_ANSWERS: Final = "aitorrent_gateway.seed.answer_schemas"
Endpoint = Callable[["Request"], Awaitable[App]]


class SeedRoutes:
    """Answers for one node."""

    def __init__(self, ctx: PluginContext, aliases: Aliases, drawing: Drawing) -> None:
        self._ctx, self._aliases = ctx, aliases
        self._drawing = drawing
        self._made: Games | None = None

    def routes(self) -> list[HttpRoute]:
        """What the HTTP server mounts."""
        get, post = frozenset({"GET"}), frozenset({"POST"})
        return [
            self._route("/txt", get, self._hello, "says hello", "hello"),
            self._route("/txt", post, self._text, "the answer to a prompt", "text", "TextBody"),
            self._route("/img", get, self._sample, "a small picture", "sample"),
            self._route(
                "/img", post, self._picture, "a picture from a text", "picture", "PictureBody"
            ),
            self._route("/list_models", get, self._models, "models that can answer", "models"),
            self._route("/users", post, self._user, "a new player", "user", "UserBody"),
            self._route(
                "/sessions",
                post,
                self._new_session,
                "a new session of a player",
                "new_session",
                "SessionBody",
            ),
            self._route("/sessions/{session_id}", get, self._session, "a session", "session"),
            self._route(
                "/generate-text",
                post,
                self._act,
                "what follows from an action",
                "hello",
                "ActionBody",
            ),
            self._route(
                "/generate-image", post, self._scene, "a picture of a scene", "scene", "SceneBody"
            ),
        ]

    def _route(
        self,
        path: str,
        methods: frozenset[str],
        endpoint: Endpoint,
        summary: str,
        answers: str,
        body: str = "",
    ) -> HttpRoute:
        return HttpRoute(
            path,
            methods,
            partial(self._checked, endpoint),
            Scope.GENERATE,
            f"Games: {summary}.",
            slots=self._ctx.config.requests,
            browser=True,
            error_body=_error_body,
            body=partial(_body, body) if body else None,
            answers=later(_ANSWERS, answers),
            error_schema=later(_ANSWERS, "error"),
        )

    async def _checked(self, endpoint: Endpoint, request: Request) -> App:
        """Tell wrong bodies with status 422."""
        from starlette.responses import JSONResponse

        from aitorrent_gateway.seed.requests import Unprocessable

        try:
            return await endpoint(request)
        except Unprocessable as e:
            return JSONResponse({"detail": e.detail}, 422)

    @property
    def _games(self) -> Games:
        if self._made is None:
            from aitorrent_gateway.seed.answering import Games
            from aitorrent_gateway.seed.store import GameStore

            self._made = Games(GameStore(self._ctx), self._drawing)
        return self._made

    @property
    def _inference(self) -> Inference:
        return inference_of(self._ctx, self._aliases)

    async def _hello(self, request: Request) -> App:
        return await self._games.hello()

    async def _text(self, request: Request) -> App:
        return await self._games.text(request, self._inference, self._ctx.clock)

    async def _sample(self, request: Request) -> App:
        return await self._games.sample()

    async def _picture(self, request: Request) -> App:
        return await self._games.picture(request)

    async def _models(self, request: Request) -> App:
        return await self._games.models(self._inference)

    async def _user(self, request: Request) -> App:
        return await self._games.user(request)

    async def _new_session(self, request: Request) -> App:
        return await self._games.new_session(request)

    async def _session(self, request: Request) -> App:
        return await self._games.session(request)

    async def _act(self, request: Request) -> App:
        return await self._games.act(request, self._inference)

    async def _scene(self, request: Request) -> App:
        return await self._games.scene(request)


def _error_body(fault: HttpFault, request_id: str) -> bytes:
    from aitorrent_gateway.seed.requests import error_body

    return error_body(fault, request_id)


def _body(model: str) -> Mapping[str, Any]:
    from aitorrent_gateway.seed import requests

    schema: Mapping[str, Any] = getattr(requests, model).model_json_schema()
    return schema
