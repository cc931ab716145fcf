"""`POST /mcp`. What answers it is imported with the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aitorrent_gateway.config import GatewayConfig
from aitorrent_gateway.core.documents import later
from aitorrentd.api import Denied, PluginContext, Role
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.routes import HttpRoute, Scope

if TYPE_CHECKING:
    from starlette.requests import Request

    from aitorrent_gateway.mcp.reach import Reach
    from aitorrent_gateway.mcp.service import McpService

MESSAGE_BYTES: Final = 2**20
"The largest message."
_SCHEMAS: Final = "aitorrent_gateway.mcp.answer_schemas"
_ANONYMOUS: Final = "anonymous"
_MOST_WHO: Final = 14
"Of a caller in the log: enough to tell tokens apart, whose hashes it need not have."


class McpRoutes:
    """Answers for one node."""

    def __init__(self, ctx: PluginContext, service: McpService) -> None:
        self._ctx = ctx
        self._service = service

    def routes(self) -> list[HttpRoute]:
        """What the HTTP server mounts."""
        config: GatewayConfig = self._ctx.config
        return [
            HttpRoute(
                "/mcp",
                frozenset({"POST"}),
                self._post,
                # Each tool has a scope of its own.
                Scope.PUBLIC,
                "MCP: tools, resources and prompts for programs that are led by models.",
                max_body=MESSAGE_BYTES,
                slots=config.requests,
                error_body=_error_body,
                body=later(_SCHEMAS, "message_body"),
                answers=later(_SCHEMAS, "answers"),
                error_schema=later(_SCHEMAS, "error"),
            )
        ]

    async def _post(self, request: Request) -> App:
        from aitorrent_gateway.mcp import posting

        reach = self._reach(request)
        return await posting.post(request, await self._service.server(), reach)

    def _reach(self, request: Request) -> Reach:
        scopes: frozenset[Scope] = request.scope["aitorrent.scopes"]
        who: str = request.scope["aitorrent.caller"]
        is_known = who != _ANONYMOUS
        if Scope.ADMIN in scopes:
            role: Role | None = Role.ADMIN
        elif Scope.OPERATE in scopes:
            role = Role.OPERATE
        else:
            role = Role.READ if Scope.READ in scopes else None
        may_ask = Scope.GENERATE in scopes
        if role is None and not may_ask:
            raise Denied(
                "this needs a token: aitorrentctl token new NAME --role generate, or read",
                unknown=not is_known,
            )
        return self._service.reach(role, may_ask=may_ask, is_known=is_known, who=who[:_MOST_WHO])


def _error_body(fault: HttpFault, ident: str) -> bytes:
    from aitorrent_gateway.mcp.messages import REFUSED, RpcError, error_of

    return error_of(RpcError(REFUSED, fault.message, data={"code": fault.code}))
