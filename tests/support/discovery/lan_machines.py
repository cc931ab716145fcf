"""Daemons on machines of their own: one network namespace each, and a capture of what leaves it.

Needs root and iproute2.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from aitorrentd.control.aclient import AsyncClient
from aitorrentd.errors import AitorrentError
from tests.support.nodes import REPOSITORY, merged, wait_for
from tests.support.transport.namespaces import ip

SERVER = """
import asyncio
from tests.support.servers.openai_server import FakeOpenai

async def main():
    async with FakeOpenai(ids=["echo-1"], words=["found", " you"]) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
# Prints protocol number, destination and port of each IP packet that leaves by the card in argv,
# but for what kernels say themselves: neighbours, groups and errors (ARP, ICMP, ICMPv6, IGMP).
CAPTURE = """
import ipaddress, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.bind((sys.argv[1], 3))
print("ready", flush=True)
while True:
    data, (_, kind, direction, *_) = sock.recvfrom(65536)
    if direction != socket.PACKET_OUTGOING:
        continue
    if kind == 0x0800 and data[9] not in (socket.IPPROTO_IGMP, socket.IPPROTO_ICMP):
        protocol, to, rest = data[9], data[16:20], data[4 * (data[0] & 15):]
    elif kind == 0x86DD and data[6] not in (0, socket.IPPROTO_ICMPV6):
        protocol, to, rest = data[6], data[24:40], data[40:]
    else:
        continue
    print(protocol, ipaddress.ip_address(to), int.from_bytes(rest[2:4], "big"), flush=True)
"""
QUIET: Mapping[str, Any] = {"ollama": {"enabled": False}, "shards": {"enabled": False}}


class Machine:
    """A daemon in a namespace."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "state" / "run" / "control.sock"
        self._log = directory / "log"

    async def is_up(self) -> bool:
        """Whether its plugins run."""
        try:
            return bool(await self.call("discovery.stats"))
        except AitorrentError:
            return False

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call a control method."""
        async with await AsyncClient.connect(self._socket, 30) as client:
            return await client.call(method, params)

    async def ask(self, prompt: str, model: str) -> str:
        """The answer to a prompt."""
        async with await AsyncClient.connect(self._socket, 30) as client:
            stream = client.stream("inference.generate", {"prompt": prompt, "model": model})
            return "".join([item["text"] async for item in stream])

    async def peers(self) -> list[dict[str, Any]]:
        """Connected peers."""
        rows: list[dict[str, Any]] = (await self.call("transport.peers"))["peers"]
        return rows

    async def id(self) -> str:
        """Its peer id."""
        return str((await self.call("node.id"))["id"])

    def log(self) -> str:
        """Its standard error so far."""
        return self._log.read_text()


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}"}


@asynccontextmanager
async def daemon(
    namespace: str, directory: Path, config: Mapping[str, Any] | None = None
) -> AsyncIterator[Machine]:
    """A daemon with its default configuration, but for `config` and backends that are off."""
    directory.mkdir()
    file = directory / "aitorrent.yaml"
    file.write_text(yaml.safe_dump(merged({"plugins": dict(QUIET)}, config or {})))
    arguments = ["--config", str(file), "--state-dir", str(directory / "state")]
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "aitorrentd.main"]
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, cwd=REPOSITORY, env=environ(), stdout=log, stderr=log
        )
    machine = Machine(directory)
    try:
        await wait_for(machine.is_up, 60, every_s=0.2)
        yield machine
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)


@asynccontextmanager
async def model_server(namespace: str) -> AsyncIterator[str]:
    """The URL of a server with the model echo-1, on that machine only."""
    ip("-n", namespace, "link", "set", "lo", "up")
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, sys.executable, "-c", SERVER),
        cwd=REPOSITORY,
        env=environ(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    finally:
        process.kill()
        await process.wait()


class Capture:
    """The packets that left a machine."""

    def __init__(self) -> None:
        self.packets: list[tuple[int, str, int]] = []
        "Protocol number, destination, and its port."

    @property
    def destinations(self) -> list[str]:
        """Where each packet went."""
        return [address for _, address, _ in self.packets]

    async def follow(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            protocol, address, port = line.decode().split()
            self.packets.append((int(protocol), address, int(port)))


@asynccontextmanager
async def captured(namespace: str, card: str = "e0") -> AsyncIterator[Capture]:
    """The packets that leave the machine by a network card while the block runs."""
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", namespace, sys.executable, "-c", CAPTURE, card),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
    capture = Capture()
    following = asyncio.ensure_future(capture.follow(process.stdout))
    try:
        yield capture
    finally:
        process.kill()
        await process.wait()
        await following
