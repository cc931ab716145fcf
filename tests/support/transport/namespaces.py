"""Machines on one network: network namespaces behind a bridge. Needs root and iproute2."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.nodes import REPOSITORY

CAN_MAKE = os.geteuid() == 0 and shutil.which("ip") is not None
REASON = "hardware: network namespaces need root and iproute2"


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def machines(count: int, *, mtu: int = 1500) -> Iterator[list[str]]:
    """Namespaces with 10.77.0.1, .2 …; packets over `mtu` bytes are dropped between them.

    They are dropped a hop away from the machines, as in a tunnel: senders are told nothing.
    """
    between = f"ait{os.getpid()}w"
    names = [f"ait{os.getpid()}m{i}" for i in range(count)]
    try:
        for name in (between, *names):
            ip("netns", "add", name)
        ip("-n", between, "link", "add", "br0", "type", "bridge")
        ip("-n", between, "link", "set", "br0", "up")
        for i, name in enumerate(names):
            port = f"p{i}"
            veth = ["link", "add", "e0", "gso_max_segs", "1", "type", "veth"]
            ip("-n", name, *veth, "peer", "name", port, "netns", between)
            bridge = "br0"
            if mtu < 1500:
                bridge, near, far = f"br{i + 1}", f"a{i}", f"b{i}"
                ip("-n", between, "link", "add", bridge, "type", "bridge")
                ip("-n", between, "link", "set", bridge, "up")
                ip("-n", between, "link", "add", near, "type", "veth", "peer", "name", far)
                for end, master in ((near, bridge), (far, "br0")):
                    ip("-n", between, "link", "set", end, "master", master, "mtu", str(mtu), "up")
            ip("-n", between, "link", "set", port, "master", bridge, "up")
            ip("-n", name, "link", "set", "e0", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "e0")
        yield names
    finally:
        for name in (between, *names):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


async def run_in(namespace: str, *arguments: str) -> asyncio.subprocess.Process:
    """This Python with `arguments` on a machine, able to import the project, with stdin open."""
    pipe = asyncio.subprocess.PIPE
    command = ["ip", "netns", "exec", namespace, sys.executable, *arguments]
    environ = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}"}
    return await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, env=environ, stdin=pipe, stdout=pipe
    )
