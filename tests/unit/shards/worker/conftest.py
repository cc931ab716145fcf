from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.shards.models import make_model

MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """`model(family="qwen3", tied=True)` is the directory of such a model, made once."""
    made: dict[str, Path] = {}

    def make(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = make_model(tmp_path_factory.mktemp("model"), **changes)
        return made[key]

    return make
