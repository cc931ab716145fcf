"""Coding agents of other authors, each pinned by the lock file in its folder below `agents/`."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Final

from tests.support.clients.javascript_programs import PINNED, packages

_PROGRAMS: Final = {
    "claude": "node_modules/@anthropic-ai/claude-code-*/claude",
    "codex": "node_modules/@openai/codex-*/vendor/*/bin/codex",
    "opencode": "node_modules/opencode-*/bin/opencode",
}
"The programs themselves, without the scripts that only look for them."


async def agent(name: str) -> Path:
    """The path of a program; of several builds the first that runs on this processor."""
    return await asyncio.to_thread(_found, name)


def _found(name: str) -> Path:
    home = packages(PINNED.parent / "agents" / name)
    for path in sorted(home.glob(_PROGRAMS[name]), key=lambda path: len(str(path))):
        if subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    raise AssertionError(f"{name} does not run here")
