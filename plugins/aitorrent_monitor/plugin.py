"""The monitor plugin: hooks."""

from __future__ import annotations

from collections.abc import Iterable

from aitorrent_monitor.methods import monitor_methods
from aitorrent_monitor.service import Monitor
from aitorrentd.api import Method, PluginContext, PluginInfo, hookimpl
from aitorrentd.api.faces.routes import HttpRoute


class MonitorPlugin:
    """Serves what the node and its plugins measure, and whether the node is well."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(name="monitor", summary="metrics for Prometheus, and health for probes")

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`monitor.metrics`."""
        return monitor_methods(ctx)

    @hookimpl
    def aitorrent_routes(self, ctx: PluginContext) -> Iterable[HttpRoute]:
        """`/metrics`, `/livez`, `/readyz` and `/health`."""
        return Monitor(ctx).routes()
