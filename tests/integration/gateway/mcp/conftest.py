"""Where the nodes of these tests have their sockets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import short_dir


@pytest.fixture
def control() -> Iterator[Path]:
    """The path of a control socket."""
    directory = short_dir()
    yield directory / "control.sock"
    shutil.rmtree(directory)
