"""How hard tests search: `make quick` tries a tenth of the examples that `make test` tries."""

from __future__ import annotations

import os
from typing import Final

IS_QUICK: Final = os.environ.get("TEST_EFFORT") == "quick"


def examples(count: int) -> int:
    """Examples that a property is tested with; `count` if there is time."""
    return max(10, count // 10) if IS_QUICK else count
