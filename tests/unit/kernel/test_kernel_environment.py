"""Failures of the environment: a plugin outwaits a full disk, and a bug still stops it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aitorrentd.api import Busy, Conflict, PluginContext, PluginError, TimedOut, Unavailable
from aitorrentd.api.events import PluginChanged
from aitorrentd.kernel.environment import may_pass
from tests.support.clocks import FakeClock
from tests.support.kernel_plugins import FAST, kernel, made, until_state


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("an error of SQLite")
    error.sqlite_errorcode = code
    return error


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        *map(failing, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)),
        *map(failing, (errno.EADDRINUSE, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EMFILE)),
        of_sqlite(sqlite3.SQLITE_FULL),
        of_sqlite(sqlite3.SQLITE_IOERR_FSYNC),
        of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        ConnectionResetError("Connection lost"),
        RuntimeError("can't start new thread"),
        Unavailable("the disk is full"),
        Busy("the database is locked"),
        TimedOut("no answer"),
        ExceptionGroup("two tasks", [failing(errno.ENOSPC), Busy("locked")]),
        caused(RuntimeError("the client failed"), caused(ValueError("a"), failing(errno.ENOSPC))),
        caused(ValueError("a task ended"), ExceptionGroup("", [failing(errno.EIO)])),
    ],
    ids=repr,
)
def test_error_of_the_environment_may_pass(error: BaseException) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("boom"),
        SystemExit(1),
        TimeoutError(),
        failing(errno.ENOENT),
        failing(errno.EBADF),
        of_sqlite(sqlite3.SQLITE_CORRUPT),
        of_sqlite(sqlite3.SQLITE_ERROR),
        sqlite3.ProgrammingError("closed"),
        Conflict("version 9"),
        caused(PluginError("a bug"), failing(errno.EIO)),
        ExceptionGroup("one is a bug", [failing(errno.ENOSPC), KeyError("a")]),
        caused(RuntimeError("a"), ExceptionGroup("", [failing(errno.EIO), KeyError("a")])),
    ],
    ids=repr,
)
def test_bug_does_not_pass(error: BaseException) -> None:
    assert not may_pass(error)


def test_causes_in_a_circle_end() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert not may_pass(first)


class Disk:
    """Makes a plugin fail at start until there is room."""

    def __init__(self, error: Callable[[], BaseException], failures: int) -> None:
        self.left = failures
        self._error = error

    def start(self, ctx: PluginContext) -> None:
        if self.left:
            self.left -= 1
            raise self._error()


async def test_full_disk_is_outwaited_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="aitorrentd.kernel")
    disk = Disk(lambda: failing(errno.ENOSPC), 4 * FAST.restarts)
    async with kernel(tmp_path, made("notes", start=disk.start)) as node:
        await until_state(node, "notes", "running")
        assert node.row("notes").restarts == 4 * FAST.restarts
    lines = [(r.levelno, r.getMessage()) for r in caplog.records if "notes" in r.getMessage()]
    full = "OSError: [Errno 28] No space left on device"
    assert lines[0] == (logging.ERROR, f"plugin notes failed: {full}")
    assert lines[1][1].startswith(f"plugin notes is failed: {full}; next attempt in 0.0")
    assert lines[2:] == [(logging.INFO, f"plugin notes is {s}") for s in ("running", "stopped")]
    assert not any(r.exc_info for r in caplog.records)


async def test_waits_grow_and_the_status_says_what_is_waited_for(tmp_path: Path) -> None:
    slow = replace(FAST, backoff_base_s=60.0, backoff_cap_s=60.0)
    text = "the disk is full: cannot write the database /x.sqlite"
    disk = Disk(lambda: Unavailable(text), 1)
    async with kernel(tmp_path, made("notes", start=disk.start), limits=slow) as node:
        ((_, warning),) = node.health()
        assert warning.text.startswith(f"plugin notes is failed: {text}; next attempt in ")
        assert 30 <= float(warning.text.rpartition("in ")[2].removesuffix(" s")) <= 60
        # An operator who made room does not have to wait.
        assert (await node.restart("notes")).state == "running"

    grown = replace(FAST, backoff_base_s=0.01, backoff_cap_s=60.0)
    disk = Disk(lambda: failing(errno.EROFS), 4)
    waits: list[float] = []
    async with kernel(tmp_path, made("notes", start=disk.start), limits=grown) as node:
        with node.bus.subscribe(PluginChanged) as events:
            async for event in events:
                assert isinstance(event, PluginChanged)
                if event.state == "failed":
                    waits.append(float(event.detail.rpartition("in ")[2].removesuffix(" s")))
                if event.state == "running":
                    break
    assert waits == sorted(waits)


async def test_a_bug_between_two_waits_counts_and_the_waits_do_not(tmp_path: Path) -> None:
    errors = [failing(errno.ENOSPC), RuntimeError("boom")] * 6

    def start(ctx: PluginContext) -> None:
        raise errors.pop(0) if errors else RuntimeError("boom")

    async with kernel(tmp_path, made("notes", start=start)) as node:
        with node.bus.subscribe(PluginChanged) as events:
            async for event in events:
                if isinstance(event, PluginChanged) and "gave up" in event.detail:
                    break
        assert not errors
        assert "boom; gave up after 5 restarts" in node.row("notes").detail


async def test_wait_starts_small_again_after_a_long_run(tmp_path: Path) -> None:
    clock = FakeClock()
    runs: list[asyncio.Event] = []

    async def write(full: asyncio.Event) -> None:
        await full.wait()
        raise failing(errno.ENOSPC)

    def start(ctx: PluginContext) -> None:
        runs.append(asyncio.Event())
        ctx.tasks.create_task(write(runs[-1]))

    limits = replace(FAST, backoff_base_s=0.1, backoff_cap_s=60.0)
    async with kernel(tmp_path, made("notes", start=start), clock=clock, limits=limits) as node:

        async def wait_after(ran_s: float) -> float:
            clock.now += ran_s
            with node.bus.subscribe(PluginChanged) as events:
                runs[-1].set()
                async for event in events:
                    assert isinstance(event, PluginChanged)
                    if event.state == "failed":
                        wait_s = float(event.detail.rpartition("in ")[2].removesuffix(" s"))
                    if event.state == "running":
                        return wait_s
            raise AssertionError("the events ended")

        assert [await wait_after(1.0) < 0.11 for _ in range(4)] == [True, False, False, False]
        assert await wait_after(61.0) < 0.11
