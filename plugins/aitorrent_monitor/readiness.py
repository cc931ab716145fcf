"""Whether the node takes work: its start is over, it does not drain, and it has what it needs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aitorrentd.api import AitorrentError, PluginContext, Role, bytes_text

LEAST_FREE_BYTES: Final = 16 * 2**20
"With less room than that, databases and downloads fail."
KEEP_S: Final = 1.0
"Anybody may ask, at any rate: the checks behind an answer run once in that time."
_ASK_S: Final = 2.0
_NEEDLESS: Final = ("disabled", "skipped")
"States of the transport in which the operator wants no peers."


@dataclass(frozen=True, slots=True)
class Check:
    """One condition."""

    name: str
    is_ok: bool
    text: str


async def loop_lag_s() -> float:
    """How long one round of the event loop takes now, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0)
    return loop.time() - began


class Readiness:
    """The checks of one node."""

    def __init__(self, ctx: PluginContext) -> None:
        self._ctx = ctx
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._found: list[Check] = []

    async def checks(self) -> list[Check]:
        """Every check. A drain shows at once; the rest is at most a second old."""
        async with self._asking:
            now = self._ctx.clock.monotonic()
            if now - self._asked_at >= KEEP_S:
                self._found = await self._ask()
                self._asked_at = now
        drains = self._ctx.draining
        text = "the node drains: it ends its work and takes no more" if drains else "takes work"
        return [Check("draining", not drains, text), *self._found]

    async def _ask(self) -> list[Check]:
        try:
            async with asyncio.timeout(_ASK_S):
                caller = self._ctx.control.caller(Role.READ)
                status = await caller.call("node.status")
                plugins = (await caller.call("plugin.list"))["plugins"]
                storage = await asyncio.to_thread(check_storage, self._ctx.data_dir)
        except TimeoutError:
            return [Check("control", False, f"the node did not answer itself within {_ASK_S:g} s")]
        except AitorrentError as e:
            return [Check("control", False, e.message)]
        states = {row["name"]: row for row in plugins}
        return [check_node(status), check_control(status), storage, check_overlay(states)]


def check_node(status: Mapping[str, Any]) -> Check:
    """Whether all plugins have settled."""
    state = str(status["state"])
    return Check("node", state == "running", f"the node is {state}")


def check_control(status: Mapping[str, Any]) -> Check:
    """Whether the control socket is where clients look for it."""
    path = status["control_socket"]
    if path is None:
        return Check("control", True, "no control socket is configured")
    is_there = os.path.exists(path)
    return Check("control", is_there, f"{path} {'serves' if is_there else 'was removed'}")


def check_storage(directory: Path) -> Check:
    """Whether the state directory can be written and has room; may wait for a slow disk."""
    try:
        found = os.statvfs(directory)
    except OSError as e:
        return Check("storage", False, f"{directory}: {(e.strerror or str(e)).lower()}")
    free = found.f_bavail * found.f_frsize
    if found.f_flag & os.ST_RDONLY or not os.access(directory, os.W_OK):
        return Check("storage", False, f"{directory} cannot be written")
    return Check("storage", free >= LEAST_FREE_BYTES, f"{bytes_text(free)} are free")


def check_overlay(plugins: Mapping[str, Mapping[str, Any]]) -> Check:
    """Whether peers can be connected, if the operator wants any."""
    row = plugins.get("transport")
    if row is None or row["state"] in _NEEDLESS:
        return Check("overlay", True, "this node has no peers")
    detail = f": {row['detail']}" if row["detail"] else ""
    return Check("overlay", row["state"] == "running", f"transport is {row['state']}{detail}")
