"""`aitorrentctl` as a process of its own against a real daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import REPOSITORY, Daemon, DaemonFactory, wait_for

STRANGER = 54_322


def command(daemon: Daemon, *args: str) -> list[str]:
    return [sys.executable, "-m", "aitorrentd.cli.main", "--socket", str(daemon.socket), *args]


async def start(daemon: Daemon, *args: str, **options: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command(daemon, *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        **options,
    )


async def run(daemon: Daemon, *args: str, **options: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = await start(daemon, *args, **options)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def clients(daemon: Daemon) -> int:
    """How many connections the daemon's socket has."""
    entries = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(str(daemon.socket)) for line in entries) - 1  # one listens


async def test_results_go_to_stdout_and_errors_to_stderr(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    code, out, err = await run(daemon, "id", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == await daemon.call("node.id")
    code, out, err = await run(daemon, "status")
    assert (code, err) == (0, "")
    assert out.startswith("aitorrentd ")
    code, out, err = await run(daemon, "plugin", "info", "nonsense")
    assert (code, out) == (1, "")
    assert "nonsense" in err


async def test_ctrl_c_ends_a_stream_with_130_and_the_daemon_forgets_it(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    process = await start(daemon, "logs", "-f", "-n", "1", "--level", "debug")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20)
    assert clients(daemon) == 1
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert err == b""
    await wait_for(lambda: clients(daemon) == 0)


async def test_a_closed_pipe_ends_the_command_quietly(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    ctl = " ".join(command(daemon, "call", "rpc.describe"))
    shell = await asyncio.create_subprocess_shell(
        f"{ctl} | true; exit ${{PIPESTATUS[0]}}",
        executable="/bin/bash",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    _, err = await asyncio.wait_for(shell.communicate(), 30)
    assert err == b""
    assert shell.returncode == 0


async def test_closed_standard_streams_do_no_harm(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        shell = await asyncio.create_subprocess_shell(
            f"{' '.join(command(daemon, 'status'))} {closed}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
        )
        _, err = await asyncio.wait_for(shell.communicate(), 30)
        assert (shell.returncode, err) == (0, b"")


async def test_a_terminal_without_unicode_shows_escapes(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory({"node": {"name": "Zoë"}})
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code, out, err = await run(daemon, "status", env=plain)
    assert (code, err) == (0, "")
    assert "Zo\\xeb" in out
    code, out, _ = await run(daemon, "status", "--json", env=plain)
    assert json.loads(out)["name"] == "Zoë"


async def test_a_daemon_that_is_killed_ends_a_stream_with_an_error(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    process = await start(daemon, "logs", "-f", "-n", "1", "--level", "debug")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20)
    await daemon.kill()
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert err == b"Error: the daemon closed the connection\n"
    code, _, err_text = await run(daemon, "status")
    assert code == 69
    assert "start one: aitorrentd" in err_text


async def test_a_daemon_that_hangs_costs_the_timeout(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    daemon.signal(signal.SIGSTOP)
    code, _, err = await run(daemon, "--timeout", "0.3", "status")
    daemon.signal(signal.SIGCONT)
    assert code == 75
    assert err == "Error: the daemon did not answer in time\n"


async def test_wait_waits_for_a_daemon_that_starts_later(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    await daemon.stop()
    process = await start(daemon, "wait", "--timeout", "60")
    await daemon_factory(directory=daemon.directory)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b"")
    assert out == b"node is running\n"


@pytest.mark.root
async def test_a_user_outside_the_group_is_told_how_to_join(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    for folder in (daemon.directory, daemon.state_dir, daemon.socket.parent):
        os.chmod(folder, 0o755)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _AS_STRANGER, str(daemon.socket)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=REPOSITORY,
    )
    assert done.returncode == 77, done.stderr
    assert "permission denied; join the group: sudo adduser $USER aitorrent" in done.stderr


async def test_the_shell_completes_with_tab_and_keeps_its_history(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    daemon = await daemon_factory()
    terminal, inner = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            shown.extend(os.read(terminal, 65_536))

    loop = asyncio.get_running_loop()
    loop.add_reader(terminal, read)
    try:
        process = await asyncio.create_subprocess_exec(
            *command(daemon, "shell"),
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=REPOSITORY,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"},
        )
        os.close(inner)
        await wait_for(lambda: b"aitorrentctl> " in shown, 20)
        os.write(terminal, b"plug\tlis\t\n")
        await wait_for(lambda: b"transport" in shown, 20)
        os.write(terminal, b"quit\n")
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        loop.remove_reader(terminal)
        os.close(terminal)
    history = tmp_path / "aitorrent" / "shell_history"
    assert history.read_text().splitlines() == ["plugin list ", "quit"]
    assert history.stat().st_mode & 0o777 == 0o600


# Imports come first: a stranger may not read the places where Python's packages are.
_AS_STRANGER = f"""
import os, sys
import aitorrentd.cli.running, aitorrentd.cli.node, aitorrentd.control.client
from aitorrentd.cli.main import main
os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
sys.exit(main(["--socket", sys.argv[1], "status"]))
"""
