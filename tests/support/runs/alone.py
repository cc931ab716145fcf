"""Tests that no other test runs beside: they compare rates, which takes the whole machine."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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


class Room:
    """A lock between the processes of one run: many share it, or one has it alone."""

    def __init__(self, run: str) -> None:
        at = Path(tempfile.gettempdir())
        self._paths = [at / f"aitorrentd-tests-{run}.{name}" for name in ("door", "room")]
        self._door, self._room = (path.open("a") for path in self._paths)

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
        """Close and delete its files; a process that still has them open goes on with them."""
        self._door.close()
        self._room.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


class Alone:
    """What a process of pytest-xdist registers."""

    def __init__(self, run: str) -> None:
        self._room = Room(run)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Hold the room while a test and its fixtures are set up, run and torn down."""
        with self._room.held(alone=is_alone(item.nodeid)):
            return (yield)

    def pytest_unconfigure(self) -> None:
        """Leave nothing behind."""
        self._room.close()
