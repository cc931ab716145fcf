"""A test that hangs must end as a failure that shows where it stands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
HANGS = """
import threading

def test_waits_for_nobody():
    threading.Event().wait()
"""


def test_every_test_has_a_limit() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert 60 <= project["tool"]["pytest"]["ini_options"]["timeout"] <= 600


def test_test_that_hangs_fails_and_shows_where(tmp_path: Path) -> None:
    file = tmp_path / "test_hangs_here.py"
    file.write_text(HANGS)
    options = ("-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-o", "timeout=0.5")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, options), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Timeout (>0.5s)" in done.stdout
    assert "threading.Event().wait()" in done.stdout
