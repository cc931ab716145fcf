"""Two nodes on a path that drops packets over 1,300 bytes: network namespaces and a bridge."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import REPOSITORY

CAN_MAKE = os.geteuid() == 0 and shutil.which("ip") is not None
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason="hardware: network namespaces need root and iproute2"),
]
NODE = """
import asyncio, sys
from pathlib import Path
from aitorrent_transport.health import warnings
from tests.support.transport_nodes import node

async def main(path, seed, host, port, bootstrap, wanted):
    known = []
    config = {"listen": host, "port": int(port), "keepalive_s": 3, "bootstrap": bootstrap}
    async with node(Path(path), seed, **config) as it:
        for i in range(6):
            it.transport.directory.publish(f"ait:{seed}{i}", {"filler": "z" * 3000})
        while len(it.transport.directory.known(f"ait:{wanted}")) < 6:
            await asyncio.sleep(0.1)
        print(*[w.code for w in warnings(it.transport)], flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:5], sys.argv[6:], sys.argv[5]))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def small_path() -> Iterator[tuple[str, str]]:
    """Two namespaces, 10.77.0.1 and .2, with a bridge between them that carries 1,300 bytes."""
    names = [f"ait{os.getpid()}{end}" for end in "abr"]
    one, two, between = names
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", between, "link", "add", "br0", "type", "bridge")
        ip("-n", between, "link", "set", "br0", "up")
        for i, name in enumerate((one, two)):
            port = f"p{i}"
            veth = ["link", "add", "e0", "gso_max_segs", "1", "type", "veth"]
            ip("-n", name, *veth, "peer", "name", port, "netns", between)
            ip("-n", between, "link", "set", port, "master", "br0", "mtu", "1300", "up")
            ip("-n", name, "link", "set", "e0", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "e0")
        yield one, two
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


async def start(namespace: str, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", NODE, *arguments]
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}"},
        stdin=pipe,
        stdout=pipe,
    )


async def test_smaller_segments_are_tried_and_the_path_is_told(
    tmp_path: Path, small_path: tuple[str, str]
) -> None:
    one, two = small_path
    hub = await start(two, str(tmp_path), "hub", "10.77.0.2", "9999", "dialer")
    dialer = await start(one, str(tmp_path), "dialer", "10.77.0.1", "0", "hub", "10.77.0.2:9999")
    try:
        for process in (hub, dialer):
            assert process.stdout is not None
            told = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().split()
        assert "path" in told
    finally:
        for process in (hub, dialer):
            process.kill()
            await process.wait()
