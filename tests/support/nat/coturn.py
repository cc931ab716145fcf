"""coturn as a STUN and TURN server of another author."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.asking import StunSocket
from aitorrentd.api import AitorrentError
from tests.support.nat.lab import Host
from tests.support.nodes import free_port

PROGRAM: Final = shutil.which("turnserver")
NAT_DISCOVERY: Final = shutil.which("turnutils_natdiscovery")
REASON: Final = "needs coturn (apt install coturn)"
STARTED_S: Final = 20.0


@asynccontextmanager
async def coturn(directory: Path, *, hosts: tuple[str, ...]) -> AsyncIterator[Place]:
    """A STUN server at these loopback addresses; yields the first."""
    assert PROGRAM
    port, alternate = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli"),
        *(word for host in hosts for word in ("-L", host)),
        *("-p", str(port), f"--alt-listening-port={alternate}"),
        *("--log-file", "stdout", "--pidfile", str(directory / "pid")),
        *("--userdb", str(directory / "db")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _answers((hosts[0], port))
        yield hosts[0], port
    finally:
        process.terminate()
        await process.wait()


@contextmanager
def turn_server(directory: Path, host: Host, user: str, password: str) -> Iterator[None]:
    """A TURN server on port 3478 of a host of a lab, with long-term credentials."""
    assert PROGRAM
    process = subprocess.Popen(
        [
            *("ip", "netns", "exec", host.namespace),
            *(PROGRAM, "-n", "--no-cli", "--no-tls", "--no-dtls", "--simple-log"),
            *("--lt-cred-mech", "-u", f"{user}:{password}", "-r", "example"),
            *("-L", host.address, "-E", host.address),
            *("--log-file", "stdout", "--pidfile", str(directory / "pid")),
            *("--userdb", str(directory / "db")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + STARTED_S
        while not _accepts(host, 3478):
            assert time.monotonic() < until, "coturn does not start"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def _accepts(host: Host, port: int) -> bool:
    with host.socket(socket.SOCK_STREAM) as sock:
        return sock.connect_ex((host.address, port)) == 0


async def _answers(place: Place) -> None:
    async with asyncio.timeout(STARTED_S):
        while True:
            with StunSocket("127.0.0.1") as sock:
                try:
                    await sock.ask(place)
                    return
                except AitorrentError:
                    await asyncio.sleep(0.1)
