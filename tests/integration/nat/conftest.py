"""An internet for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.nat.lab import Lab, lab


@pytest.fixture
def nat_lab() -> Iterator[Lab]:
    """A fresh internet of namespaces; name it before `daemon_factory`, which ends first then."""
    with lab() as net:
        yield net
