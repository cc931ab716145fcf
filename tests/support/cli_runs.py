"""`aitorrentctl` as a separate process, read through pipes or a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
from typing import Any, Final

from tests.support.nodes import REPOSITORY, Daemon

RUN_S: Final = 90.0


def command(daemon: Daemon | Path, *args: str) -> list[str]:
    """The command line that connects to `daemon` or to a socket."""
    socket = daemon if isinstance(daemon, Path) else daemon.socket
    return [sys.executable, "-m", "aitorrentd.cli.main", "--socket", str(socket), *args]


async def run(daemon: Daemon | Path, *args: str, **options: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *command(daemon, *args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        **options,
    )
    out, err = await asyncio.wait_for(process.communicate(), RUN_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def terminal_output(daemon: Daemon | Path, columns: int, *args: str) -> str:
    """The command's stdout and stderr on a terminal with this many columns, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        *command(daemon, *args),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=REPOSITORY,
        env={**environ, "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(theirs)

    def read_all() -> bytes:
        found = b""
        try:
            while part := os.read(ours, 65_536):
                found += part
        except OSError:  # Linux returns EIO when the last writer closes the terminal
            pass
        finally:
            os.close(ours)
        return found

    found = await asyncio.wait_for(asyncio.to_thread(read_all), RUN_S)
    await asyncio.wait_for(process.wait(), RUN_S)
    text = found.decode().replace("\r\n", "\n")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
