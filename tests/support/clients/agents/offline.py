"""Runs agents in a network namespace where 127.0.0.1:8000 is a node, and nothing else exists.

    async with offline(address) as place:
        out = await place.run(agent("claude"), "-p", "hello", cwd=tmp_path)

The programs are pinned by the lock files beside this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.clients.javascript_programs import packages
from tests.support.nat.namespaces import namespaces, socket_in

ADDRESS: Final = "127.0.0.1:8000"
"Of the node, for programs in the namespace."
RUN_S: Final = 120.0
_PROGRAMS: Final = {
    "claude": "node_modules/@anthropic-ai/claude-code-linux-*/claude",
    "codex": "node_modules/@openai/codex-linux-*/vendor/*/bin/codex",
    "opencode": "node_modules/opencode-linux-*/bin/opencode",
}


async def agent(name: str) -> str:
    """The path of a program: of the first build for this processor that runs here."""
    home = await asyncio.to_thread(packages, Path(__file__).parent / name)
    for path in sorted(home.glob(_PROGRAMS[name]), key=lambda path: len(str(path))):
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        if await process.wait() == 0:
            return str(path)
    raise AssertionError(f"{name} does not run here")


class Offline:
    """A namespace with a node and nothing else."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    async def run(
        self, *command: str, home: Path, environ: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of a command in the directory `home`, which is its HOME."""
        process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self._namespace, *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=home,
            env={
                "HOME": str(home),
                "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "LC_ALL": "C.UTF-8",
                **(environ or {}),
            },
        )
        try:
            async with asyncio.timeout(RUN_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def offline(address: str) -> AsyncIterator[Offline]:
    """A namespace where the node at `address` (host:port) is at `ADDRESS`; needs root."""
    host, _, port = address.rpartition(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
            with contextlib.closing(inner_writer):
                there = asyncio.create_task(_copy(reader, inner_writer))
                await _copy(inner_reader, writer)
                there.cancel()

    with namespaces() as made:
        namespace = made.make()
        sock = socket_in(namespace, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 8000))
        server = await asyncio.start_server(relay, sock=sock)
        async with server:
            yield Offline(namespace)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
