"""Commands right after a daemon was started, while it does not listen yet."""

from __future__ import annotations

import asyncio
import subprocess

from tests.support.cli_runs import command, run
from tests.support.nodes import REPOSITORY, DaemonFactory


async def test_models_right_after_the_start_waits_for_the_socket(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory(ready=False)
    code, out, err = await run(daemon, "--json", "models")
    assert (code, '"models"' in out) == (0, True), err


async def test_prompt_from_standard_input_is_read_once(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory(ready=False)
    words = command(daemon, "ask")
    ran = await asyncio.to_thread(
        subprocess.run,
        words,
        input=b"hello\n",
        capture_output=True,
        cwd=REPOSITORY,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 1
    assert b"has no model that can answer" in ran.stderr
