"""Worker processes find the entry points of these tests, which lie below the repository's root."""

from __future__ import annotations

import pytest

from tests.support.nodes import REPOSITORY


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
