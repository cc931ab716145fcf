"""Programs in Python with large packages that nothing else here needs, pinned in
`python/requirements.txt`.

They are installed once per virtual environment, beside it; what it has already, they share.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

PINNED: Final = Path(__file__).parent / "python" / "requirements.txt"
INSTALL_S: Final = 240.0


def packages() -> Path:
    """A folder with the pinned packages; installed by the first caller."""
    lock = hashlib.sha256(PINNED.read_bytes()).hexdigest()[:16]
    home = Path(sys.prefix) / "share" / f"python-{lock}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=home.parent))
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps")
    target = ("--target", str(made), "--requirement", str(PINNED))
    subprocess.run((*command, *target), check=True, capture_output=True, timeout=INSTALL_S)
    try:
        made.rename(home)
    except OSError:  # another process was faster
        shutil.rmtree(made)
    return home


def environment() -> dict[str, str]:
    """The environment of a Python that has the packages, and those of the tests; blocking."""
    environ = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    # Their own versions first; not what the tests themselves are.
    environ["PYTHONPATH"] = os.pathsep.join((str(packages()), sysconfig.get_path("purelib")))
    return environ


async def run_python(code: str, *arguments: str) -> str:
    """What a program prints; it fails the test if the program ends with an error."""
    environ = await asyncio.to_thread(environment)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", code, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
