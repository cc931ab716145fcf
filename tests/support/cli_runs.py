"""`aitorrentctl` as a separate process, read through pipes or a terminal; or in this process."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final
from unittest import mock

from aitorrentd.cli.main import main
from aitorrentd.cli.plugin_commands import PluginCommands
from tests.support.cli_nodes import Ran
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


class Terminal(io.StringIO):
    """A stream that claims to be a terminal, or does not."""

    def __init__(self, text: str = "", *, is_terminal: bool = True) -> None:
        super().__init__(text)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@contextmanager
def terminal(columns: int | None) -> Iterator[Terminal]:
    """While the block runs, stdout is a terminal with so many columns, or none."""
    out = Terminal(is_terminal=columns is not None)
    with redirect_stdout(out), mock.patch.dict(os.environ, {"COLUMNS": str(columns or "")}):
        yield out


def run_here(
    *args: str,
    socket: Path | None = None,
    stdin: str = "",
    columns: int = 80,
    is_terminal: bool = False,
    plugins: PluginCommands | None = None,
) -> Ran:
    """The result of a command line in this process, with streams and an environment of its own.

    `is_terminal` tells whether its stdout is one, with so many columns.
    """
    err, before = io.StringIO(), sys.stdin
    environ = {"COLUMNS": str(columns)} | ({"AITORRENT_SOCKET": str(socket)} if socket else {})
    with (
        terminal(columns if is_terminal else None) as out,
        redirect_stderr(err),
        mock.patch.dict(os.environ, environ),
    ):
        sys.stdin = io.StringIO(stdin)
        try:
            code = main(list(args), plugins=plugins)
        finally:
            sys.stdin = before
    return Ran(code, out.getvalue(), err.getvalue())
