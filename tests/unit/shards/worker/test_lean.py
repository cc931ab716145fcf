"""What a worker imports to compute layers, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

REPORT = """
import json, sys, warnings
import torch
print(json.dumps({
    "engine": Engine.__module__,
    "heavy": [name for name in ("torch._dynamo", "torch.onnx", "sympy", "scipy.optimize")
              if name in sys.modules],
    "alone": not torch.distributed.is_available(),
}))
"""
LEAN = "from aitorrent_shards.worker.lean import engine_class\nEngine = engine_class()\n"
OTHER_RELEASE = """
from aitorrent_shards.worker import lean
def missing(self, name):
    raise AttributeError(name)
lean._StandIn.__getattr__ = missing
"""
COMPILES = """
import torch
double = torch.compile(lambda x: x * 2, backend="eager")
assert double(torch.ones(2)).tolist() == [2.0, 2.0]
"""


def said(*parts: str) -> tuple[dict[str, object], str]:
    """What such a program reports, and its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", "".join(parts)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout), done.stderr


def test_neither_compiler_nor_distribution_is_imported_and_the_compiler_still_can_be() -> None:
    found, err = said(LEAN, REPORT, COMPILES)
    assert found == {"engine": "aitorrent_shards.worker.engine", "heavy": [], "alone": True}
    assert err == ""


def test_release_that_needs_more_is_imported_whole() -> None:
    found, err = said(OTHER_RELEASE, LEAN, REPORT)
    assert found["engine"] == "aitorrent_shards.worker.engine"
    assert (found["heavy"], found["alone"]) != ([], True)
    assert "importing all of transformers, which this release needs: AttributeError" in err
