"""A test that hangs must end as a failure that shows where it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONFTEST = """
from tests.support.runs import hangs

def pytest_configure(config):
    config.pluginmanager.register(hangs)
"""
HANGS = """
import threading

def test_waits_for_nobody():
    threading.Event().wait()
"""
HANG_IN_LOOPS = """
import asyncio

import pytest
import uvloop

async def nobody():
    await asyncio.Event().wait()


@pytest.fixture
def loop():
    loop = uvloop.new_event_loop()
    yield loop
    loop.run_until_complete(nobody())


def test_both_hang(loop):
    loop.run_until_complete(nobody())


def test_next_one_runs():
    pass
"""

SLOW_TO_TELL = """
import time

class Slow(Exception):
    def __str__(self):
        time.sleep(0.7)
        return "told at last"

def test_fails():
    raise Slow
"""


def test_every_test_has_a_limit() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert 60 <= project["tool"]["pytest"]["ini_options"]["timeout"] <= 600


def run_tests(directory: Path, code: str) -> str:
    """What pytest says of tests that may take half a second."""
    (directory / "conftest.py").write_text(CONFTEST)
    file = directory / "test_hangs_here.py"
    file.write_text(code)
    options = ("-c", ROOT / "pyproject.toml", "--rootdir", directory, "-o", "timeout=0.5")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, options), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_test_that_hangs_fails_and_shows_where(tmp_path: Path) -> None:
    said = run_tests(tmp_path, HANGS)
    assert "Timeout (>0.5s)" in said
    assert "threading.Event().wait()" in said


def test_loop_that_hangs_in_a_test_and_in_its_teardown_fails_both(tmp_path: Path) -> None:
    said = run_tests(tmp_path, HANG_IN_LOOPS)
    assert re.findall(r"^(FAILED|ERROR) \S*::(\w+)", said, re.M) == [
        ("ERROR", "test_both_hang"),
        ("FAILED", "test_both_hang"),
    ]
    assert "E." in said  # the next test ran
    for what in ("Timeout (>0.5s)", "Teardown: timeout (>0.5s)"):
        task, waiting, event = said.partition(f"\n{what}\n")[2].splitlines()[:3]
        assert task.startswith("Task-")
        assert waiting.endswith("test_hangs_here.py:8 nobody")
        assert event.endswith("locks.py:213 Event.wait")


@pytest.mark.slow
def test_failure_that_is_slow_to_tell_is_told(tmp_path: Path) -> None:
    said = run_tests(tmp_path, SLOW_TO_TELL)
    assert "told at last" in said
    assert "1 failed" in said
