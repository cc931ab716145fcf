"""The gateway plugin: hooks."""

from __future__ import annotations

from collections.abc import Iterable

from aitorrent_gateway.config import GatewayConfig
from aitorrent_gateway.service import gateway_routes
from aitorrentd.api import INFERENCE, PluginContext, PluginInfo, hookimpl
from aitorrentd.api.faces.routes import HttpRoute


class GatewayPlugin:
    """The APIs that programs speak, over every model that this node can answer with."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="gateway",
            summary="APIs for programs over the models of the network",
            wants=(INFERENCE,),
            config=GatewayConfig,
        )

    @hookimpl
    def aitorrent_routes(self, ctx: PluginContext) -> Iterable[HttpRoute]:
        """The paths of every dialect."""
        return gateway_routes(ctx)
