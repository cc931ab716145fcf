"""A node without models pays nothing for tokenizers and chat templates."""

from __future__ import annotations

import subprocess
import sys

_HEAVY = ("jinja2", "llguidance", "numpy", "tokenizers", "torch")


def test_plugin_is_loaded_without_what_models_need() -> None:
    code = (
        "import sys; import aitorrent_shards.plugin, aitorrent_shards.service;"
        f"print([name for name in {_HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
