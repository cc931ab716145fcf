"""docs/features.md may say "works" only where a test proves it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_working_feature_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "features.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    states = {state.strip() for _, state, _ in rows[1:]}
    assert states <= {"works", "partly", "not yet"}
    for feature, state, proof in rows[1:]:
        named = re.findall(r"tests/\S+\.py", proof)
        if state.strip() == "works":
            assert named, f"{feature.strip()} works, but no test is named"
        for path in named:
            assert (ROOT / path).is_file(), f"{feature.strip()}: there is no {path}"
