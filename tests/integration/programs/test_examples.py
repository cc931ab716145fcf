"""The examples of the documentation run, and do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_three_nodes_in_one_program_answer_together() -> None:
    command = [sys.executable, str(ROOT / "examples" / "three_nodes.py"), "What is a shard?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("connected to 12D3KooW") for line in lines) == 2
    assert "two received: hello, all" in lines
    assert "sent to 2 peers" in lines
    assert any("A shard is a range of layers of a model" in line for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("layers ")] == [
        "0-3",
        "3-6",
        "6-9",
    ]
