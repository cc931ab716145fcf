"""coturn as a STUN and TURN server of another author."""

from __future__ import annotations

import asyncio
import random
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

PROGRAM: Final = shutil.which("turnserver")
NAT_DISCOVERY: Final = shutil.which("turnutils_natdiscovery")
REASON: Final = "needs coturn (apt install coturn)"
STARTED_S: Final = 20.0


@asynccontextmanager
async def coturn(directory: Path, *, hosts: tuple[str, ...]) -> AsyncIterator[Place]:
    """A STUN server at these loopback addresses; yields the first."""
    assert PROGRAM
    port, alternate = _free_port(), _free_port()
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


def _free_port() -> int:
    """A port that is free for UDP and TCP, both of which coturn binds, and that the kernel gives to
    no other socket meanwhile."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    for port in random.sample(range(10_000, lowest), 100):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as streams,
        ):
            try:
                datagrams.bind(("127.0.0.1", port))
                streams.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")


async def _answers(place: Place) -> None:
    async with asyncio.timeout(STARTED_S):
        while True:
            with StunSocket("127.0.0.1") as sock:
                try:
                    await sock.ask(place)
                    return
                except AitorrentError:
                    await asyncio.sleep(0.1)
