"""The paths of Anthropic's dialect. What answers them is imported with the first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aitorrent_gateway.config import GatewayConfig
from aitorrent_gateway.core.aliases import Aliases
from aitorrent_gateway.core.documents import later
from aitorrent_gateway.core.naming import inference_of
from aitorrentd.api import PluginContext
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.routes import HttpRoute, Scope

if TYPE_CHECKING:
    from starlette.requests import Request

CHAT_BYTES: Final = 8 * 2**20
"The largest conversation: agents begin with 50 kB, and images travel in it."

_ANSWERS: Final = "aitorrent_gateway.anthropic.answer_schemas"


class AnthropicRoutes:
    """Answers for one node."""

    def __init__(self, ctx: PluginContext, aliases: Aliases) -> None:
        self._ctx, self._aliases = ctx, aliases

    def routes(self) -> list[HttpRoute]:
        """What the HTTP server mounts."""
        messages = self._route(
            "/v1/messages",
            self._messages,
            "Anthropic: the next turn of a conversation.",
            "message",
        )
        count = self._route(
            "/v1/messages/count_tokens",
            self._count_tokens,
            "Anthropic: how many tokens a conversation has.",
            "count",
        )
        return [messages, count]

    def _route(
        self, path: str, endpoint: Callable[[Request], Awaitable[App]], summary: str, answers: str
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
            error_body=_error_body,
            error_header="anthropic-version",
            body=later("aitorrent_gateway.anthropic.requests", "message_body"),
            answers=later(_ANSWERS, answers),
            error_schema=later(_ANSWERS, "error"),
        )

    async def _messages(self, request: Request) -> App:
        from aitorrent_gateway.anthropic import answering

        return await answering.messages(request, inference_of(self._ctx, self._aliases))

    async def _count_tokens(self, request: Request) -> App:
        from aitorrent_gateway.anthropic import answering

        return await answering.count_tokens(request, inference_of(self._ctx, self._aliases))


def _error_body(fault: HttpFault, ident: str) -> bytes:
    from aitorrent_gateway.anthropic.errors import error_body

    return error_body(fault, ident)
