"""Tests that hang fail, as does a teardown that hangs after its test: on uvloop, too.

pytest-timeout raises its error in a signal handler. uvloop logs an error from there and waits on:
only KeyboardInterrupt and SystemExit end its loop. So while a loop runs a KeyboardInterrupt is
raised, which says where each task stands and becomes the failure of the test.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator, Iterator
from typing import Any, Final

import pytest
import pytest_timeout

TEARDOWN_S: Final = 120
_SETTINGS: Final = pytest.StashKey[Any]()


class _HangError(KeyboardInterrupt):
    """The time of a test ran out while an event loop ran."""


def _stack(awaited: Any) -> Iterator[str]:
    """Where a coroutine stands, and what it awaits, down to what is no coroutine."""
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        yield f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        awaited = awaited.cr_await
    if awaited is not None:
        yield f"  {awaited!r}"


def _tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    for task in asyncio.all_tasks(loop):
        yield f"{task.get_name()}:"
        yield from _stack(task.get_coro())


def _set_alarm(item: pytest.Item, settings: Any, what: str, seconds: float) -> None:
    def ring(*_: object) -> None:
        loop = asyncio._get_running_loop()
        if loop is not None:
            raise _HangError("\n".join((f"{what} (>{seconds:g}s)", *_tasks(loop))))
        pytest_timeout.timeout_sigalrm(item, settings._replace(timeout=f"{seconds:g}"))

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """In place of pytest-timeout's own, unless it uses a thread."""
    if settings.method != "signal":
        return None
    item.stash[_SETTINGS] = settings
    _set_alarm(item, settings, "Timeout", settings.timeout)
    return True


def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """No alarm outlives its test."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    return True


def _failing() -> Generator[None]:
    try:
        return (yield)
    except _HangError as e:
        hang = str(e)
    pytest.fail(hang, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """A setup that hangs fails."""
    return (yield from _failing())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """A test that hangs fails. What is told of a failure is not interrupted: the teardown gets an
    alarm of its own."""
    try:
        return (yield from _failing())
    except BaseException:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """One alarm is set for a test with its setup and teardown; if it rang, the teardown gets its
    own."""
    settings = item.stash.get(_SETTINGS, None)
    if settings and not signal.getitimer(signal.ITIMER_REAL)[0]:
        _set_alarm(item, settings, "Teardown: timeout", min(TEARDOWN_S, settings.timeout))
    return (yield from _failing())
