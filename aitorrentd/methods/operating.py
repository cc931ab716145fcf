"""`node.*` and `plugin.*` methods that act."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from aitorrentd.api.plugin import CallContext, Method, NoParams, Role
from aitorrentd.kernel.context.drain import Work, work_text
from aitorrentd.methods import shapes
from aitorrentd.runtime.reload import reload, switch_plugin

if TYPE_CHECKING:
    from aitorrentd.runtime.runtime import Runtime


def operating_methods(runtime: Runtime) -> list[Method]:
    """Methods that start, stop and restart things."""

    def node_stop(call: CallContext, params: NoParams) -> dict[str, Any]:
        runtime.log.info("stop requested by %s", call.trace)
        runtime.stop_requested.set()
        return {}

    async def node_reload(call: CallContext, params: NoParams) -> dict[str, Any]:
        return dataclasses.asdict(await reload(runtime))

    async def node_drain(call: CallContext, params: shapes.DrainParams) -> dict[str, Any]:
        most = 0

        def told(works: tuple[Work, ...]) -> None:
            nonlocal most
            left = sum(work.count for work in works)
            most = max(most, left)
            if most:
                text = f"waiting for {work_text(works)}"
                call.progress(text, done=most - left, total=most)

        await runtime.drain(timeout_s=params.timeout_s, told=told)
        drain = runtime.kernel.drain
        under_way = [dataclasses.asdict(work) for work in drain.under_way()]
        return {"draining": drain.active, "under_way": under_way}

    def node_undrain(call: CallContext, params: NoParams) -> dict[str, Any]:
        runtime.undrain()
        return {}

    def plugin_switch(enabled: bool) -> Callable[[CallContext, shapes.PluginName], Any]:
        async def switch(call: CallContext, params: shapes.PluginName) -> dict[str, Any]:
            await switch_plugin(runtime, params.name, enabled=enabled)
            return dataclasses.asdict(runtime.kernel.row(params.name))

        return switch

    async def plugin_restart(call: CallContext, params: shapes.PluginName) -> dict[str, Any]:
        return dataclasses.asdict(await runtime.kernel.restart(params.name))

    operate = partial(Method, role=Role.OPERATE)
    on_plugin = partial(operate, params=shapes.PluginName, result=shapes.PluginView)
    return [
        Method("node.stop", node_stop, "Stop the daemon.", result=shapes.Nothing, role=Role.ADMIN),
        operate(
            "node.reload",
            node_reload,
            "Reload the configuration and apply what can change live.",
            result=shapes.ReloadResult,
        ),
        operate(
            "node.drain",
            node_drain,
            "Stop taking new work and wait for running work to finish.",
            params=shapes.DrainParams,
            result=shapes.Drained,
        ),
        operate("node.undrain", node_undrain, "Take new work again.", result=shapes.Nothing),
        on_plugin(
            "plugin.enable",
            plugin_switch(True),
            "Enable a plugin, now and across restarts of the daemon.",
        ),
        on_plugin(
            "plugin.disable",
            plugin_switch(False),
            "Disable a plugin, now and across restarts of the daemon.",
        ),
        on_plugin("plugin.restart", plugin_restart, "Restart a plugin."),
    ]
