"""A plugin that tries, from inside the daemon and from inside its workers, what must be forbidden.

Each attempt ends as `done` or as the name of the error that stopped it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from aitorrentd.api import (
    CallContext,
    Frame,
    Method,
    PluginConfig,
    PluginContext,
    PluginInfo,
    hookimpl,
)

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NAMESPACES = {"user": 0x10000000, "mount": 0x00020000, "net": 0x40000000, "pid": 0x20000000}


def _checked(code: int) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), "refused")


def _unshare(flag: int) -> None:
    _checked(_LIBC.unshare(flag))


def _outcome(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except OSError as e:
        return errno.errorcode.get(e.errno or 0, "OSError")
    return "done"


def _touch(path: str) -> None:
    with open(path, "a"):
        pass


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(path)


def _send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", ("127.0.0.1", 9))


def look() -> dict[str, str]:
    """What this process may do, and who it is."""
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    attempts: dict[str, Callable[[], Any]] = {
        "write /usr": lambda: _touch("/usr/probe"),
        "write /etc": lambda: _touch("/etc/aitorrent.yaml"),
        "write program": lambda: _touch("/usr/lib/aitorrentd/probe"),
        "write layer": lambda: _touch("/usr/local/lib/aitorrentd/probe"),
        "write state": lambda: _touch("/var/lib/aitorrent/probe"),
        "read home": lambda: os.listdir("/home"),
        "read root": lambda: os.listdir("/root"),
        "read identity": lambda: Path("/var/lib/aitorrent/identity.key").read_bytes(),
        "control socket": lambda: _connect("/run/aitorrent/control.sock"),
        "network": _send,
        "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "executable memory": lambda: mmap.mmap(
            -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        ).close(),
        "set clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
        "mount": lambda: _checked(_LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
        "become root": lambda: os.setuid(0),
    }
    for name, flag in _NEW_NAMESPACES.items():
        attempts[f"new {name} namespace"] = partial(_unshare, flag)
    facts = {name: _outcome(attempt) for name, attempt in attempts.items()}
    return facts | {
        "uid": str(os.getuid()),
        "unit": Path("/proc/self/cgroup").read_text().rpartition("/")[2].strip(),
        "capabilities": status["CapEff"].strip(),
        "seccomp": status["Seccomp"].strip(),
        "no new privileges": status["NoNewPrivs"].strip(),
        "interfaces": " ".join(sorted(name for _, name in socket.if_nameindex()))
        if _outcome(socket.if_nameindex) == "done"
        else "",
    }


def worker() -> Callable[[Frame], tuple[dict[str, Any], bytes]]:
    """The entry point of a worker that looks around."""

    def handle(request: Frame) -> tuple[dict[str, Any], bytes]:
        return {"facts": look()}, b""

    return handle


def foreign() -> Callable[[Frame], tuple[dict[str, Any], bytes]]:
    """The entry point of a worker or sandbox that runs whatever Python it is sent."""

    def handle(request: Frame) -> tuple[dict[str, Any], bytes]:
        names: dict[str, Any] = {}
        exec(request.header["code"], names)
        return {"result": str(names.get("result"))}, b""

    return handle


class Code(BaseModel):
    """What to run, and where."""

    code: str
    sandbox: bool = True
    timeout_s: float = 60.0


class Result(BaseModel):
    """What the code left in `result`, and who ran it."""

    model_config = ConfigDict(frozen=True)

    result: str
    pid: int | None


class Facts(BaseModel):
    """What was found."""

    model_config = ConfigDict(frozen=True)

    facts: dict[str, str]
    pid: int | None


class ProbeConfig(PluginConfig):
    """How long its start takes."""

    start_s: float = 0.0


class ProbePlugin:
    """Looks around on request."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo(name="probe", summary="looks around", config=ProbeConfig)

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        await asyncio.sleep(ctx.config.start_s)
        yield

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        async def in_worker(call: CallContext, params: BaseModel) -> Facts:
            spawned = await ctx.spawn_worker("aitorrent_probe:worker", name="probe")
            try:
                frame = await spawned.request({"op": "look"}, timeout_s=30)
                return Facts(facts=frame.header["facts"], pid=spawned.pid)
            finally:
                await spawned.close()

        async def run(call: CallContext, params: Code) -> Result:
            spawned = await ctx.spawn_worker(
                "aitorrent_probe:foreign", name="foreign", sandbox=params.sandbox
            )
            try:
                work = {"op": "run", "code": params.code}
                frame = await spawned.request(work, timeout_s=params.timeout_s)
                return Result(result=frame.header["result"], pid=spawned.pid)
            finally:
                await spawned.close()

        yield Method("probe.run", run, "Run code elsewhere.", params=Code, result=Result)
        yield Method(
            "probe.look",
            lambda call, params: Facts(facts=look(), pid=os.getpid()),
            "Look around in the daemon.",
            result=Facts,
        )
        yield Method("probe.worker", in_worker, "Look around in a worker.", result=Facts)
