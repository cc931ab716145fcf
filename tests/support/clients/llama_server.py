"""llama.cpp's own HTTP server, over a model with random weights.

async with llama_server(directory) as address: ...
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.clients.python_programs import environment

_PROGRAM: Final = Path(__file__).parent / "python" / "random_llama.py"
_READY_S: Final = 60.0


@asynccontextmanager
async def llama_server(directory: Path, embeddings: str = "") -> AsyncIterator[str]:
    """The address of a server that runs while the block does; it makes nothing but `embeddings`
    if that is given, under that name."""
    with (directory / "llama.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(_PROGRAM), str(directory / "random.gguf")),
            *filter(None, (embeddings,)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=await asyncio.to_thread(environment),
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _READY_S)
        assert line.startswith(b"http://"), (directory / "llama.log").read_text()
        yield line.decode().strip().removeprefix("http://")
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _READY_S)
        finally:
            if process.returncode is None:
                process.kill()
