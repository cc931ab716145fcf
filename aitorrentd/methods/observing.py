"""`node.*` and `plugin.*` methods that only read."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import platform
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from aitorrentd import __version__
from aitorrentd.api.events import Event, Lagged, PluginChanged
from aitorrentd.api.plugin import CallContext, End, Method, NoParams
from aitorrentd.config.merge import merge
from aitorrentd.config.read import Layer
from aitorrentd.config.secrets import conceal
from aitorrentd.control.framing import PROTO
from aitorrentd.doctor.checks import run_checks
from aitorrentd.errors import InvalidParams, NotFound, TimedOut, Unavailable
from aitorrentd.methods import shapes
from aitorrentd.runtime.logs import ROOT, LogLine, level_number
from aitorrentd.system.distributions import installed
from aitorrentd.system.memory import rss_bytes

if TYPE_CHECKING:
    from aitorrentd.runtime.runtime import Runtime

_LIBRARIES: Final = ("cryptography", "httpx", "msgpack", "pluggy", "pydantic", "pynacl", "uvloop")
_HOPELESS: Final = ("broken", "invalid", "skipped", "disabled")
"States that a plugin does not leave without intervention."
_WAITABLE: Final = ("running", "stopping", "stopped", "failed", "blocked", *_HOPELESS)


async def status(runtime: Runtime) -> dict[str, Any]:
    """The result of node.status."""
    workers = await runtime.workers.look()
    rows = runtime.kernel.rows()
    config = runtime.config
    reach = runtime.reachability()
    return {
        "version": __version__,
        "id": runtime.id,
        "name": runtime.name,
        "network": runtime.started_as.network,
        "pid": os.getpid(),
        "uptime_s": runtime.uptime_s,
        "state": runtime.state,
        "draining": runtime.kernel.drain.active,
        "under_way": [dataclasses.asdict(work) for work in runtime.kernel.drain.under_way()],
        "addresses": runtime.addresses(),
        "peers": len(runtime.peers()),
        "reach": None if reach is None else {"word": reach.reach, "reason": reach.reason},
        "plugins": {
            "running": sum(row.state == "running" for row in rows),
            "skipped": sum(row.state == "skipped" for row in rows),
            "disabled": sum(row.state == "disabled" for row in rows),
            "total": len(rows),
        },
        "warnings": [
            {"plugin": plugin, "code": w.code, "text": w.text, "severity": w.severity}
            for plugin, w in runtime.health()
        ],
        "rss_bytes": rss_bytes(),
        "workers": [dataclasses.asdict(worker) for worker in workers],
        "loop_lag_s": runtime.lag.worst_s(),
        "control_socket": str(runtime.control_path) if runtime.control_path else None,
        "config_files": [str(file) for file in config.files],
    }


def _log_item(line: LogLine) -> dict[str, Any]:
    return {"at": line.at, "level": line.level, "logger": line.logger, "text": line.text}


def _wanted(line: LogLine, params: shapes.LogsParams) -> bool:
    if line.level_number < level_number(params.level):
        return False
    if params.plugin is None:
        return True
    name = f"{ROOT}.{params.plugin}"
    return line.logger == name or line.logger.startswith(name + ".")


async def _logs(runtime: Runtime, params: shapes.LogsParams) -> AsyncIterator[dict[str, Any] | End]:
    if params.plugin is not None:
        runtime.kernel.row(params.plugin)
    sent = 0
    with runtime.ring.followed() as new:
        kept = [line for line in runtime.ring.lines() if _wanted(line, params)]
        for line in kept[len(kept) - min(params.lines, len(kept)) :]:
            sent += 1
            yield _log_item(line)
        if params.follow:
            async for line in new:
                if _wanted(line, params):
                    sent += 1
                    yield _log_item(line)
    yield End({"lines": sent})


def _chosen(topic: str, topics: list[str]) -> bool:
    return not topics or any(topic == t or (t[-1:] == "." and topic.startswith(t)) for t in topics)


async def _events(
    runtime: Runtime, params: shapes.EventsParams
) -> AsyncIterator[dict[str, Any] | End]:
    with runtime.kernel.bus.subscribe(Event) as events:
        async for event in events:
            if isinstance(event, Lagged) or _chosen(event.topic, params.topics):
                fields = dataclasses.asdict(event)
                yield {"topic": event.topic, "at": time.time(), "event": fields}
            if isinstance(event, Lagged):
                yield End({"dropped": event.dropped})
                return


def _reached(runtime: Runtime, params: shapes.WaitParams, name: str) -> dict[str, Any] | None:
    row = runtime.kernel.row(name)
    if row.state == params.state:
        return {"name": name, "state": row.state}
    if params.state == "running" and row.state in _HOPELESS:
        detail = f": {row.detail}" if row.detail else ""
        raise Unavailable(f"plugin {name} is {row.state}{detail}", state=row.state)
    return None


async def _wait_for_plugin(
    runtime: Runtime, params: shapes.WaitParams, name: str
) -> dict[str, Any]:
    while True:
        with runtime.kernel.bus.subscribe(PluginChanged) as changes:
            if (reached := _reached(runtime, params, name)) is not None:
                return reached
            async for _ in changes:
                if (reached := _reached(runtime, params, name)) is not None:
                    return reached


async def _wait(runtime: Runtime, params: shapes.WaitParams) -> dict[str, Any]:
    if params.plugin is None and params.state != "running":
        raise InvalidParams("without a plugin, only the state `running` can be awaited")
    if params.state not in _WAITABLE:
        raise InvalidParams(f"unknown state {params.state!r}; known states: {', '.join(_WAITABLE)}")
    try:
        async with asyncio.timeout(params.timeout_s):
            if params.plugin is not None:
                return await _wait_for_plugin(runtime, params, params.plugin)
            await runtime.settled.wait()
            return {"name": "node", "state": runtime.state}
    except TimeoutError:
        present = runtime.kernel.row(params.plugin).state if params.plugin else runtime.state
        raise TimedOut(
            f"{params.plugin or 'the node'} is {present}, not {params.state}, after "
            f"{params.timeout_s:g} s"
        ) from None


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        if (dist := installed(name)) is not None:
            found[name] = dist.version
    return found


def plugin_config(runtime: Runtime, name: str) -> Any:
    """The plugin's settings with their defaults, without any secret."""
    model = runtime.kernel.config(name)
    defaults = model.model_dump(mode="json", by_alias=True) if model is not None else {}
    given = (runtime.config.merged.tree.get("plugins") or {}).get(name) or {}
    layers = [Layer("", conceal(tree, ("plugins", name))) for tree in (defaults, given)]
    return _redacted(runtime, merge(layers).tree)


def _redacted(runtime: Runtime, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _redacted(runtime, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_redacted(runtime, v) for v in value]
    return runtime.redactor(value) if isinstance(value, str) else value


def _plugin_detail(runtime: Runtime, name: str) -> dict[str, Any]:
    return {
        **dataclasses.asdict(runtime.kernel.row(name)),
        "methods": [m.name for plugin, m in runtime.kernel.methods() if plugin == name],
        "protocols": [p.id for plugin, p in runtime.kernel.protocols() if plugin == name],
        "config": plugin_config(runtime, name),
    }


def observing_methods(runtime: Runtime) -> list[Method]:
    """Methods for every role."""

    async def node_status(call: CallContext, params: NoParams) -> dict[str, Any]:
        return await status(runtime)

    def node_id(call: CallContext, params: NoParams) -> dict[str, Any]:
        return {
            "id": runtime.id,
            "name": runtime.name,
            "public_key": runtime.identity.public_key.hex(),
            "dht_id": runtime.identity.dht_id.hex(),
            "addresses": runtime.addresses(),
        }

    def node_version(call: CallContext, params: NoParams) -> dict[str, Any]:
        return {
            "version": __version__,
            "proto": list(PROTO),
            "python": platform.python_version(),
            "libraries": _libraries(),
        }

    async def node_wait(call: CallContext, params: shapes.WaitParams) -> dict[str, Any]:
        return await _wait(runtime, params)

    def node_events(
        call: CallContext, params: shapes.EventsParams
    ) -> AsyncIterator[dict[str, Any] | End]:
        return _events(runtime, params)

    def node_logs(
        call: CallContext, params: shapes.LogsParams
    ) -> AsyncIterator[dict[str, Any] | End]:
        return _logs(runtime, params)

    async def node_doctor(call: CallContext, params: shapes.DoctorParams) -> dict[str, Any]:
        if params.plugin not in (None, "core"):
            runtime.kernel.row(params.plugin)
        found = await run_checks(runtime, params.plugin)
        if params.plugin is not None and not found:
            raise NotFound(f"{params.plugin} has no checks")
        return {"checks": [dataclasses.asdict(check) for check in found]}

    def plugin_list(call: CallContext, params: NoParams) -> dict[str, Any]:
        return {"plugins": [dataclasses.asdict(row) for row in runtime.kernel.rows()]}

    def plugin_info(call: CallContext, params: shapes.PluginName) -> dict[str, Any]:
        return _plugin_detail(runtime, params.name)

    return [
        Method("node.status", node_status, "The node's status.", result=shapes.Status),
        Method("node.id", node_id, "The node's id, name and addresses.", result=shapes.NodeId),
        Method(
            "node.version",
            node_version,
            "Versions of the daemon and its libraries.",
            result=shapes.Version,
        ),
        Method(
            "node.wait",
            node_wait,
            "Wait until the node or a plugin reaches a state.",
            params=shapes.WaitParams,
            result=shapes.WaitResult,
        ),
        Method(
            "node.events",
            node_events,
            "Follow the node's events.",
            params=shapes.EventsParams,
            result=shapes.EventItem,
            stream=True,
        ),
        Method(
            "node.logs",
            node_logs,
            "Read recent log records, and follow new ones.",
            params=shapes.LogsParams,
            result=shapes.LogItem,
            stream=True,
        ),
        Method(
            "node.doctor",
            node_doctor,
            "Diagnose common problems, with a remedy for each.",
            params=shapes.DoctorParams,
            result=shapes.CheckList,
        ),
        Method("plugin.list", plugin_list, "All plugins.", result=shapes.PluginList),
        Method(
            "plugin.info",
            plugin_info,
            "A plugin with its methods, protocols and configuration.",
            params=shapes.PluginName,
            result=shapes.PluginDetail,
        ),
    ]
