"""Tests that no other test runs beside: they compare rates, which takes the whole machine."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

TESTS: Final = (
    "tests/integration/seeding/test_crowd.py",
    "tests/integration/seeding/test_limited_seeder.py",
    "tests/integration/seeding/test_web_left_out.py",
)
SCOPE: Final = "alone"
"One process has them all, and begins when there are no others to begin."


def is_alone(nodeid: str) -> bool:
    """Whether no other test may run beside this one."""
    return nodeid.startswith(TESTS)


def _files(run: str) -> list[Path]:
    at = Path(tempfile.gettempdir())
    return [at / f"aitorrentd-tests-{run}.{name}" for name in ("door", "room")]


class Room:
    """A lock between the processes of one run: many share it, or one has it alone."""

    def __init__(self, run: str) -> None:
        self._door, self._room = (path.open("a") for path in _files(run))

    @contextmanager
    def held(self, *, alone: bool) -> Iterator[None]:
        """Wait for it. Who waits to have it alone keeps the door shut, so that no other follows."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close its files."""
        self._door.close()
        self._room.close()


class Worker:
    """What each process that runs tests registers."""

    def __init__(self, run: str) -> None:
        self._room = Room(run)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Hold the room while a test and its fixtures are set up, run and torn down."""
        with self._room.held(alone=is_alone(item.nodeid)):
            return (yield)

    def pytest_unconfigure(self) -> None:
        """Let go of the files, which others may still use."""
        self._room.close()


class Controller:
    """What the process registers that hands tests out: it deletes the files in the end."""

    def __init__(self) -> None:
        self._run = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker is about to start."""
        self._run = node.workerinput["testrunuid"]

    def pytest_unconfigure(self) -> None:
        """Leave nothing behind."""
        for path in _files(self._run) if self._run else ():
            path.unlink(missing_ok=True)
