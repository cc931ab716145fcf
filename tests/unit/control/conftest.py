"""Calls behave alike whether both ends sleep between them or stay awake."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrentd.control.polling import Eagerness, Polling
from tests.support.nodes import short_dir

_BOTH_WAYS = ("test_control_calls", "test_control_client", "test_control_server")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in _BOTH_WAYS:
        metafunc.fixturenames.append("wakefulness")
        metafunc.parametrize("wakefulness", ["asleep", "awake"], indirect=True)


@pytest.fixture
def wakefulness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    is_awake = request.param == "awake"
    monkeypatch.setattr(Polling, "pays", lambda self: is_awake)
    if is_awake:
        monkeypatch.setattr(Eagerness, "is_high", property(lambda self: True))


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A path for a socket that other users can get at; pytest's directories are closed to them."""
    directory = short_dir()
    directory.chmod(0o755)
    yield directory / "control.sock"
    shutil.rmtree(directory)
