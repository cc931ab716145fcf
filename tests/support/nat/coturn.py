"""coturn as a STUN server of another author."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.asking import StunSocket
from aitorrentd.api import AitorrentError

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


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def _answers(place: Place) -> None:
    async with asyncio.timeout(STARTED_S):
        while True:
            with StunSocket("127.0.0.1") as sock:
                try:
                    await sock.ask(place)
                    return
                except AitorrentError:
                    await asyncio.sleep(0.1)
