"""The paths of Ollama's dialect. What answers them is imported with the first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from aitorrent_gateway.config import GatewayConfig
from aitorrent_gateway.core.aliases import Aliases
from aitorrent_gateway.core.documents import later
from aitorrent_gateway.core.naming import inference_of
from aitorrentd.api import BACKENDS, Inference, PluginContext, Role
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.routes import HttpRoute, Scope
from aitorrentd.api.models.weights import MODEL_NAMES, WEIGHTS

if TYPE_CHECKING:
    from starlette.requests import Request

    from aitorrent_gateway.ollama.keeping import Memory
    from aitorrent_gateway.ollama.listing import Listing

CHAT_BYTES: Final = 8 * 2**20
"The largest conversation: images travel in it."
EMBED_BYTES: Final = 32 * 2**20
"The largest list of texts."
_CREATE: Final = "create or push models over HTTP; use `aitorrentctl seed`"
NOT_HERE: Final = {
    "create": _CREATE,
    "push": _CREATE,
    "blobs/{digest}": _CREATE,
}
"What is answered with 501."
ABSENT: Final = ("me", "signout", "status", "web_search", "web_fetch", "experimental/{rest:path}")
"Of Ollama's own service: 404, as in versions that have none."
_REQUESTS: Final = "aitorrent_gateway.ollama.requests"
_ANSWERS: Final = "aitorrent_gateway.ollama.answer_schemas"
_BODIES: Final = {
    **dict.fromkeys(("chat", "generate"), _REQUESTS),
    **dict.fromkeys(("copy", "embed", "embeddings", "pull", "show"), _ANSWERS),
}
"Where the schemas of requests are."
_SILENT: Final = ("copy", "delete")
"What answers with nothing."
_ABSENT: Final = "not offered"
_ANONYMOUS: Final = "anonymous"
Endpoint = Callable[["Request"], Awaitable[App]]


class OllamaRoutes:
    """Answers for one node."""

    def __init__(self, ctx: PluginContext, aliases: Aliases) -> None:
        self._ctx, self._aliases = ctx, aliases
        self._began_s = ctx.clock.time()

    def routes(self) -> list[HttpRoute]:
        """What the HTTP server mounts."""
        get, post = frozenset({"GET"}), frozenset({"POST"})
        routes = [
            self._route("version", get, self._version, "its version"),
            self._route("tags", get, self._tags, "models that can answer"),
            self._route("ps", get, self._ps, "models in memory"),
            self._route("show", post, self._show, "one model"),
            self._route("chat", post, self._chat, "the next turn of a conversation", CHAT_BYTES),
            self._route("generate", post, self._generate, "the answer to a prompt", CHAT_BYTES),
            self._route("embed", post, self._embed, "texts as vectors", EMBED_BYTES),
            self._route("embeddings", post, self._embeddings, "a text as a vector", EMBED_BYTES),
            self._route("copy", post, self._copy, "a further name of a model", operate=True),
            self._route("pull", post, self._pull, "download a model", operate=True),
            self._route(
                "delete", frozenset({"DELETE"}), self._delete, "delete a download", operate=True
            ),
        ]
        for name, text in NOT_HERE.items():
            answer = partial(self._refuse, 501, f"aitorrentd does not {text}")
            methods = post | (get if "{" in name else frozenset())
            routes.append(self._route(name, methods, answer, _ABSENT))
        for name in ABSENT:
            answer = partial(self._refuse, 404, "404 page not found")
            routes.append(self._route(name, get | post, answer, _ABSENT))
        return routes

    def _route(
        self,
        name: str,
        methods: frozenset[str],
        endpoint: Endpoint,
        summary: str,
        max_body: int = 2**20,
        *,
        operate: bool = False,
    ) -> HttpRoute:
        config: GatewayConfig = self._ctx.config
        return HttpRoute(
            f"/api/{name}",
            methods,
            endpoint,
            Scope.OPERATE if operate else Scope.GENERATE,
            f"Ollama: {summary}.",
            max_body=max_body,
            slots=config.requests,
            browser=not operate,
            error_body=_error_body,
            listed=summary != _ABSENT,
            body=later(_BODIES[name], f"{name}_body") if name in _BODIES else None,
            answers=None if name in _SILENT or summary == _ABSENT else later(_ANSWERS, name),
            error_schema=later(_ANSWERS, "error"),
        )

    @property
    def _inference(self) -> Inference:
        return inference_of(self._ctx, self._aliases)

    def _listing(self) -> Listing:
        from aitorrent_gateway.ollama.listing import Listing

        return Listing(self._inference, self._ctx.optional(BACKENDS), self._began_s)

    async def _version(self, request: Request) -> App:
        from starlette.responses import JSONResponse

        config: GatewayConfig = self._ctx.config
        own = (await self._ctx.control.caller(Role.READ).call("node.version"))["version"]
        return JSONResponse({"version": config.ollama_version, "aitorrent": own})

    async def _tags(self, request: Request) -> App:
        return await self._listing().tags()

    async def _ps(self, request: Request) -> App:
        return await self._listing().ps(self._ctx.clock.time())

    async def _show(self, request: Request) -> App:
        return await self._listing().show(request)

    async def _chat(self, request: Request) -> App:
        from aitorrent_gateway.ollama import answering

        return await answering.chat(request, self._memory(request), self._ctx.clock)

    async def _generate(self, request: Request) -> App:
        from aitorrent_gateway.ollama import answering

        return await answering.generate(request, self._memory(request), self._ctx.clock)

    async def _embed(self, request: Request) -> App:
        from aitorrent_gateway.ollama import embedding

        return await embedding.embed(request, self._inference, self._ctx.clock)

    async def _embeddings(self, request: Request) -> App:
        from aitorrent_gateway.ollama import embedding

        return await embedding.embeddings(request, self._inference)

    def _memory(self, request: Request) -> Memory:
        from aitorrent_gateway.ollama.keeping import Memory

        return Memory(
            self._inference,
            self._ctx.optional(BACKENDS),
            request.scope["aitorrent.scopes"],
            request.scope["aitorrent.caller"] != _ANONYMOUS,
            self._ctx.log,
        )

    async def _copy(self, request: Request) -> App:
        from aitorrent_gateway.ollama import copying

        return await copying.copy(request, self._inference, self._aliases)

    async def _pull(self, request: Request) -> App:
        from aitorrent_gateway.ollama import pulling

        services = (self._ctx.optional(MODEL_NAMES), self._ctx.optional(WEIGHTS))
        caller = self._ctx.control.caller(Role.OPERATE)
        return await pulling.pull(request, *services, caller, self._aliases)

    async def _delete(self, request: Request) -> App:
        from aitorrent_gateway.ollama import pulling

        caller = self._ctx.control.caller(Role.OPERATE)
        names = self._ctx.optional(MODEL_NAMES)
        return await pulling.delete(request, names, caller, self._aliases)

    @staticmethod
    async def _refuse(status: int, text: str, request: Request) -> App:
        from starlette.responses import JSONResponse

        return JSONResponse({"error": text}, status)


def _error_body(fault: HttpFault, request_id: str) -> bytes:
    from aitorrent_gateway.ollama.shapes import error_body

    return error_body(fault, request_id)
