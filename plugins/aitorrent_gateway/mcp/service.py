"""The MCP server of a node, for HTTP and for the control socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api import CallContext, Method, PluginContext, Role

if TYPE_CHECKING:
    from aitorrent_gateway.mcp.reach import Reach
    from aitorrent_gateway.mcp.server import McpServer


class LineParams(BaseModel):
    """A message of a client."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: str = Field(max_length=2**20, description="a message of MCP, as JSON")


class LineResult(BaseModel):
    """A message to the client."""

    line: str = Field(description="a message of MCP, as JSON on one line")


class McpService:
    """Makes the server for its first client."""

    def __init__(self, ctx: PluginContext) -> None:
        self._ctx = ctx
        self._server: McpServer | None = None

    async def server(self) -> McpServer:
        """The server."""
        if self._server is None:
            from aitorrent_gateway.mcp.server import McpServer

            version = (await self._ctx.control.caller(Role.READ).call("node.version"))["version"]
            self._server = McpServer(version, self._ctx.clock.monotonic, self._ctx.log)
        return self._server

    def reach(self, role: Role | None, *, may_ask: bool, is_known: bool = True, who: str) -> Reach:
        """The rights of a caller with a role of the control socket, or none of them; `who` is what
        the log calls it."""
        from aitorrent_gateway.mcp.reach import Reach

        caller_of = self._ctx.control.caller
        return Reach(
            caller_of(role) if role is not None else None,
            caller_of(Role.OPERATE) if may_ask else None,
            is_known,
            who,
        )

    def methods(self) -> list[Method]:
        """The control method behind `aitorrentctl mcp`."""
        return [
            Method(
                "gateway.mcp",
                self._line,
                "Answer a message of MCP, as a stream: progress, if the message asks for it, and"
                " the answer; nothing for a notification.",
                params=LineParams,
                result=LineResult,
                stream=True,
            )
        ]

    async def _line(self, call: CallContext, params: LineParams) -> AsyncGenerator[dict[str, Any]]:
        from aitorrent_gateway.mcp.messages import RpcError, error_of, read

        reach = self.reach(
            call.role,
            may_ask=call.role >= Role.OPERATE,
            who=f"{call.trace} with the role {call.role.name.lower()}",
        )
        try:
            message = read(params.line.encode("utf-8", "surrogatepass"))
        except RpcError as e:
            yield {"line": error_of(e).decode()}
            return
        if message is None or message.is_notification:
            return
        server = await self.server()
        async with aclosing(server.replies(message, reach)) as lines:
            async for line in lines:
                yield {"line": line.decode()}
