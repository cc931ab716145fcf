"""A program in a network namespace of its own, in which nothing can be reached but a node.

    out = await sealed(["codex", "exec", "hi"], node_socket, cwd=..., env=...)

The node's Unix socket crosses the namespace; inside it, 127.0.0.1:8000 leads there.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[3]
PORT: Final = 8000


async def sealed(
    command: Sequence[str], socket: Path, *, cwd: Path, env: Mapping[str, str], wait_s: float = 60
) -> tuple[int, str, str]:
    """Run a program; (exit status, output, errors). What it has started ends with it."""
    inside = [sys.executable, "-m", "tests.support.clients.sealed", str(socket), str(cwd), *command]
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--net", "--pid", "--kill-child", *inside),
        cwd=REPOSITORY,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), wait_s)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def _forward(socket: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there, back = await asyncio.open_unix_connection(socket)

    async def copied(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while received := await source.read(65536):
                sink.write(received)
                await sink.drain()
        sink.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(copied(reader, back))
        group.create_task(copied(there, writer))


async def _main(socket: str, cwd: str, *command: str) -> int:
    link = await asyncio.create_subprocess_exec("ip", "link", "set", "lo", "up")
    assert await link.wait() == 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _forward(socket, reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", PORT)
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd)
    status = await process.wait()
    server.close()
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(*sys.argv[1:])))
