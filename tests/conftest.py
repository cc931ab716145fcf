"""Fixtures and rules for every test.

- Async tests run on uvloop, as the daemon does; AITORRENT_TEST_LOOP=asyncio runs them on asyncio.
  Those marked `jump_clock` run on a loop that jumps over every wait.
- `node_factory` and `daemon_factory` make nodes in this process and daemons of their own; a test
  that uses them fails if it leaves an error in a log (unless marked `allow_error_log`), a task, a
  socket or an open file behind.
- In CI a skipped test is a failure, unless its reason starts with "hardware:".
- Tests may run in several processes (pytest-xdist); those of ONE_PROCESS stay together, and no
  other runs beside those of tests/support/runs/alone.py. Only this
  file is sure to be loaded by the process that reports: what workers find out reaches it through
  the hooks here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

import pytest
import uvloop
from hypothesis import settings

from tests.support.clocks import JumpLoop
from tests.support.effort import examples
from tests.support.nodes import DaemonFactory, Leaks, NodeFactory
from tests.support.runs import alone, hangs

os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a developer's shell sets must not reach the nodes of a test.
for _name in ("PORT", "AI_TORRENT_ADDR", "BOOTSTRAP_ADDR", "AITORRENT_CONFIG", "NOTIFY_SOCKET"):
    os.environ.pop(_name, None)
# Nor may it make every daemon compile all modules at its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A job in the background ignores Ctrl-C, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("aitorrentd", deadline=None, max_examples=examples(100))
settings.load_profile("aitorrentd")


class _Uvloop(uvloop.Loop):
    """uvloop, whose `close()` also ends if a transport was left open.

    It warns of each and then closes it; where a warning is an error, it would close nothing, and
    wait for it for ever.
    """

    def close(self) -> None:
        with warnings.catch_warnings(record=True) as left_open:
            warnings.simplefilter("always")
            super().close()
        for each in left_open:
            warnings.warn(each.message, stacklevel=2)


_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": _Uvloop,
    "asyncio": asyncio.new_event_loop,
    "jumping": JumpLoop,
}
# Tests below such a path share what is slow to make (a package, a booted system, images, a network,
# the syntax trees of all modules, every help), or what there is only one of. The mark `xdist_group`
# would say so, were it not ignored with pytest 9.2 (pytest-xdist issue 1386).
ONE_PROCESS: Final = (
    "tests/packaging/debian/",
    "tests/packaging/test_container_stack.py",
    "tests/unit/house/",
    "tests/unit/cli/test_cli_help.py",
    "tests/integration/gateway/split/",
    "tests/integration/programs/test_third_party_plugin.py",
)
_unwanted_skips: list[tuple[str, str]] = []
_figures: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(hangs)
    run = getattr(config, "workerinput", {}).get("testrunuid")
    config.pluginmanager.register(alone.Worker(run) if run else alone.Controller())
    config.addinivalue_line(
        "markers", "allow_error_log: the test makes nodes log errors, and that is right"
    )
    config.addinivalue_line(
        "markers", "jump_clock: time jumps when all is idle; without sockets and processes"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = os.environ.get("AITORRENT_TEST_LOOP", "uvloop")
    if item.get_closest_marker("jump_clock") is not None:
        name = "jumping"
    return {name: _LOOPS[name]}


def pytest_collection(session: pytest.Session) -> None:
    # Collecting makes millions of objects that stay: looking for garbage among them takes longer.
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes longest begins first, so that no core waits for it in the end.
    items.sort(key=lambda item: not item.nodeid.startswith("tests/packaging/"))


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()
    # pytest adds its handlers to every logger that does not propagate, six times for each test.
    # torch and transformers have 57 of these.
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True


def scope_of(nodeid: str) -> str:
    """What is sent to a worker as a whole: the tests of a path above, or a single test."""
    if alone.is_alone(nodeid):
        return alone.SCOPE
    return next((path for path in ONE_PROCESS if nodeid.startswith(path)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.support.runs.scheduling import Mixed

    scheduler = Mixed(config, log)
    scheduler._split_scope = scope_of
    return scheduler


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    found = report.longrepr
    reason = found[2] if isinstance(found, tuple) else str(found)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith("hardware:"):
        _unwanted_skips.append((report.nodeid, reason))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = _figures
    if os.environ.get("CI") == "true" and _unwanted_skips and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # A worker that crashed has no output.
    _figures.update(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _figures:
        terminalreporter.section("figures")
        for name, value in _figures.items():
            terminalreporter.line(f"{name}: {value}")
    if os.environ.get("CI") == "true" and _unwanted_skips:
        terminalreporter.section("skipped in CI, which is a failure")
        for nodeid, reason in _unwanted_skips:
            terminalreporter.line(f"{nodeid}: {reason}")


@pytest.fixture(scope="session")
def figures() -> dict[str, str]:
    """Measurements, shown after the tests."""
    return _figures


@pytest.fixture
def error_log(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Error records that nodes in this process log; they fail the test unless it allows them."""
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(f"{record.name}: {record.getMessage()}")

    handler = Keep(logging.ERROR)
    logger = logging.getLogger("aitorrentd")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    if records and request.node.get_closest_marker("allow_error_log") is None:
        pytest.fail("a node logged errors:\n" + "\n".join(records), pytrace=False)


@pytest.fixture
async def node_factory(error_log: list[str]) -> AsyncIterator[NodeFactory]:
    """Makes nodes in this process, on temporary directories and free loopback ports."""
    leaks = Leaks()
    factory = NodeFactory()
    yield factory
    await factory.close()
    await leaks.check()


@pytest.fixture
async def daemon_factory(request: pytest.FixtureRequest) -> AsyncIterator[DaemonFactory]:
    """Makes real daemons, processes of their own, that are stopped when the test ends."""
    leaks = Leaks()
    factory = DaemonFactory()
    yield factory
    errors = await factory.close()
    await leaks.check()
    if errors and request.node.get_closest_marker("allow_error_log") is None:
        pytest.fail("a daemon logged errors:\n" + "\n".join(errors), pytrace=False)
