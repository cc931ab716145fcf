"""`node.*` and `plugin.*` methods that act."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aitorrentd.api.plugin import CallContext, Method, NoParams, Role
from aitorrentd.methods import shapes

if TYPE_CHECKING:
    from aitorrentd.host import Host


def operating_methods(host: Host) -> list[Method]:
    """Methods that start, stop and restart things."""

    def node_stop(call: CallContext, params: NoParams) -> dict[str, Any]:
        host.log.info("asked to stop by %s", call.trace)
        host.stop_requested.set()
        return {}

    async def node_reload(call: CallContext, params: NoParams) -> dict[str, Any]:
        return dataclasses.asdict(await host.reload())

    async def plugin_enable(call: CallContext, params: shapes.PluginName) -> dict[str, Any]:
        await host.set_plugin_enabled(params.name, True)
        return dataclasses.asdict(host.kernel.row(params.name))

    async def plugin_disable(call: CallContext, params: shapes.PluginName) -> dict[str, Any]:
        await host.set_plugin_enabled(params.name, False)
        return dataclasses.asdict(host.kernel.row(params.name))

    async def plugin_restart(call: CallContext, params: shapes.PluginName) -> dict[str, Any]:
        return dataclasses.asdict(await host.kernel.restart(params.name))

    return [
        Method(
            "node.stop",
            node_stop,
            "Stop the daemon.",
            result=shapes.Nothing,
            role=Role.ADMIN,
        ),
        Method(
            "node.reload",
            node_reload,
            "Read the configuration again and put in force what can be changed live.",
            result=shapes.ReloadResult,
            role=Role.OPERATE,
        ),
        Method(
            "plugin.enable",
            plugin_enable,
            "Start a plugin, now and after a restart of the daemon.",
            params=shapes.PluginName,
            result=shapes.PluginView,
            role=Role.OPERATE,
        ),
        Method(
            "plugin.disable",
            plugin_disable,
            "Stop a plugin, now and after a restart of the daemon.",
            params=shapes.PluginName,
            result=shapes.PluginView,
            role=Role.OPERATE,
        ),
        Method(
            "plugin.restart",
            plugin_restart,
            "Stop a plugin and start it again.",
            params=shapes.PluginName,
            result=shapes.PluginView,
            role=Role.OPERATE,
        ),
    ]
