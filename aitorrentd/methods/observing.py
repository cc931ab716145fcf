"""`node.*` and `plugin.*` methods that only look."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import platform
import time
from collections.abc import AsyncIterator
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from aitorrentd import __version__
from aitorrentd.api.events import Event, Lagged, PluginChanged
from aitorrentd.api.plugin import CallContext, End, Method, NoParams
from aitorrentd.config.layers import Layer, merge
from aitorrentd.config.secrets import conceal
from aitorrentd.control.framing import PROTO
from aitorrentd.doctor import run_checks
from aitorrentd.errors import InvalidParams, NotFound, TimedOut, Unavailable
from aitorrentd.logs import ROOT, LogLine, level_number
from aitorrentd.memory import rss_bytes
from aitorrentd.methods import shapes

if TYPE_CHECKING:
    from aitorrentd.host import Host

_LIBRARIES: Final = ("cryptography", "httpx", "msgpack", "pluggy", "pydantic", "pynacl", "uvloop")
_HOPELESS: Final = ("broken", "invalid", "skipped", "disabled")
"States that a plugin does not leave by itself."
_WAITABLE: Final = ("running", "stopping", "stopped", "failed", "blocked", *_HOPELESS)


async def status(host: Host) -> dict[str, Any]:
    """The answer of node.status."""
    workers = await host.workers.look()
    rows = host.kernel.rows()
    config = host.config
    return {
        "version": __version__,
        "id": host.id,
        "name": host.name,
        "network": host.started_as.network,
        "pid": os.getpid(),
        "uptime_s": host.uptime_s,
        "state": host.state,
        "draining": host.kernel.drain.active,
        "under_way": [dataclasses.asdict(work) for work in host.kernel.drain.under_way()],
        "addresses": host.addresses(),
        "peers": len(host.peers()),
        "plugins": {
            "running": sum(row.state == "running" for row in rows),
            "skipped": sum(row.state == "skipped" for row in rows),
            "total": sum(row.state != "disabled" for row in rows),
        },
        "warnings": [
            {"plugin": plugin, "code": w.code, "text": w.text, "severity": w.severity}
            for plugin, w in host.kernel.health()
        ],
        "rss_bytes": rss_bytes(),
        "workers": [dataclasses.asdict(worker) for worker in workers],
        "loop_lag_s": host.lag.worst_s(),
        "control_socket": str(host.control_path) if host.control_path else None,
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


async def _logs(host: Host, params: shapes.LogsParams) -> AsyncIterator[dict[str, Any] | End]:
    if params.plugin is not None:
        host.kernel.row(params.plugin)
    sent = 0
    with host.ring.followed() as new:
        kept = [line for line in host.ring.lines() if _wanted(line, params)]
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


async def _events(host: Host, params: shapes.EventsParams) -> AsyncIterator[dict[str, Any] | End]:
    with host.kernel.bus.subscribe(Event) as events:
        async for event in events:
            if isinstance(event, Lagged) or _chosen(event.topic, params.topics):
                fields = dataclasses.asdict(event)
                yield {"topic": event.topic, "at": time.time(), "event": fields}
            if isinstance(event, Lagged):
                yield End({"dropped": event.dropped})
                return


def _reached(host: Host, params: shapes.WaitParams, name: str) -> dict[str, Any] | None:
    row = host.kernel.row(name)
    if row.state == params.state:
        return {"name": name, "state": row.state}
    if params.state == "running" and row.state in _HOPELESS:
        detail = f": {row.detail}" if row.detail else ""
        raise Unavailable(f"plugin {name} is {row.state}{detail}", state=row.state)
    return None


async def _wait_for_plugin(host: Host, params: shapes.WaitParams, name: str) -> dict[str, Any]:
    while True:
        with host.kernel.bus.subscribe(PluginChanged) as changes:
            if (reached := _reached(host, params, name)) is not None:
                return reached
            async for _ in changes:
                if (reached := _reached(host, params, name)) is not None:
                    return reached


async def _wait(host: Host, params: shapes.WaitParams) -> dict[str, Any]:
    if params.plugin is None and params.state != "running":
        raise InvalidParams("without a plugin only the state running can be waited for")
    if params.state not in _WAITABLE:
        raise InvalidParams(
            f"there is no state {params.state!r}; there are: {', '.join(_WAITABLE)}"
        )
    try:
        async with asyncio.timeout(params.timeout_s):
            if params.plugin is not None:
                return await _wait_for_plugin(host, params, params.plugin)
            await host.settled.wait()
            return {"name": "node", "state": host.state}
    except TimeoutError:
        present = host.kernel.row(params.plugin).state if params.plugin else host.state
        raise TimedOut(
            f"{params.plugin or 'the node'} is not {params.state} after "
            f"{params.timeout_s:g} s but {present}"
        ) from None


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def plugin_config(host: Host, name: str) -> Any:
    """The plugin's settings with their defaults, without a secret in any form."""
    model = host.kernel.config(name)
    defaults = model.model_dump(mode="json", by_alias=True) if model is not None else {}
    given = (host.config.tree.get("plugins") or {}).get(name) or {}
    layers = [Layer("", conceal(tree, ("plugins", name))) for tree in (defaults, given)]
    return _redacted(host, merge(layers)[0])


def _redacted(host: Host, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _redacted(host, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_redacted(host, v) for v in value]
    return host.redactor(value) if isinstance(value, str) else value


def _plugin_detail(host: Host, name: str) -> dict[str, Any]:
    return {
        **dataclasses.asdict(host.kernel.row(name)),
        "methods": [m.name for plugin, m in host.kernel.methods() if plugin == name],
        "protocols": [p.id for plugin, p in host.kernel.protocols() if plugin == name],
        "config": plugin_config(host, name),
    }


def observing_methods(host: Host) -> list[Method]:
    """Methods for every role."""

    async def node_status(call: CallContext, params: NoParams) -> dict[str, Any]:
        return await status(host)

    def node_id(call: CallContext, params: NoParams) -> dict[str, Any]:
        return {
            "id": host.id,
            "name": host.name,
            "public_key": host.identity.public_key.hex(),
            "dht_id": host.identity.dht_id.hex(),
            "addresses": host.addresses(),
        }

    def node_version(call: CallContext, params: NoParams) -> dict[str, Any]:
        return {
            "version": __version__,
            "proto": list(PROTO),
            "python": platform.python_version(),
            "libraries": _libraries(),
        }

    async def node_wait(call: CallContext, params: shapes.WaitParams) -> dict[str, Any]:
        return await _wait(host, params)

    def node_events(
        call: CallContext, params: shapes.EventsParams
    ) -> AsyncIterator[dict[str, Any] | End]:
        return _events(host, params)

    def node_logs(
        call: CallContext, params: shapes.LogsParams
    ) -> AsyncIterator[dict[str, Any] | End]:
        return _logs(host, params)

    async def node_doctor(call: CallContext, params: shapes.DoctorParams) -> dict[str, Any]:
        if params.plugin not in (None, "core"):
            host.kernel.row(params.plugin)
        found = await run_checks(host, params.plugin)
        if params.plugin is not None and not found:
            raise NotFound(f"{params.plugin} has no checks")
        return {"checks": [dataclasses.asdict(check) for check in found]}

    def plugin_list(call: CallContext, params: NoParams) -> dict[str, Any]:
        return {"plugins": [dataclasses.asdict(row) for row in host.kernel.rows()]}

    def plugin_info(call: CallContext, params: shapes.PluginName) -> dict[str, Any]:
        return _plugin_detail(host, params.name)

    return [
        Method("node.status", node_status, "The node at a glance.", result=shapes.Status),
        Method("node.id", node_id, "The node's names and addresses.", result=shapes.NodeId),
        Method("node.version", node_version, "What runs.", result=shapes.Version),
        Method(
            "node.wait",
            node_wait,
            "Wait until the node or a plugin is in a state.",
            params=shapes.WaitParams,
            result=shapes.WaitResult,
        ),
        Method(
            "node.events",
            node_events,
            "Follow what happens in the node.",
            params=shapes.EventsParams,
            result=shapes.EventItem,
            stream=True,
        ),
        Method(
            "node.logs",
            node_logs,
            "Read the last log records, and follow new ones.",
            params=shapes.LogsParams,
            result=shapes.LogItem,
            stream=True,
        ),
        Method(
            "node.doctor",
            node_doctor,
            "Check what commonly goes wrong, with a remedy for each.",
            params=shapes.DoctorParams,
            result=shapes.CheckList,
        ),
        Method("plugin.list", plugin_list, "All plugins.", result=shapes.PluginList),
        Method(
            "plugin.info",
            plugin_info,
            "A plugin and what it adds.",
            params=shapes.PluginName,
            result=shapes.PluginDetail,
        ),
    ]
