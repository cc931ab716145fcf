"""Programs that know nothing of the Hub fetch files from the mirror, as hfd.sh has them do."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.support.nodes import NodeFactory
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import mirror_config, mirror_of
from tests.support.servers.hub.repos import weights

LARGE = weights(5_000_000)
FILES = {"config.json": b"{}", "model.safetensors": LARGE}
NAME = "model.safetensors"
QUIET = ("--quiet", "--no-conf", "--allow-overwrite=false", "--auto-file-renaming=false")
COMMANDS = {
    # huggingface_hub 3232, 4060: several connections, each with ranges of its own
    "aria2": ("aria2c", *QUIET, "-c", "-x", "4", "-s", "4", "-k", "1M", "-o", NAME),
    "wget": ("wget", "--quiet", "--no-config", "-c", "-O", NAME),
    "curl": ("curl", "--silent", "--fail", "--location", "-C", "-", "-o", NAME),
}


@pytest.mark.parametrize("program", COMMANDS)
@pytest.mark.parametrize("there", [0, 1_700_001, len(LARGE)])
async def test_download_begins_goes_on_and_is_complete(
    node_factory: NodeFactory, tmp_path: Path, program: str, there: int
) -> None:
    with FakeHub() as hub:
        hub.add("org/model", FILES)
        mirror = await mirror_of(await node_factory(mirror_config(hub)))
        target = tmp_path / NAME
        if there:
            target.write_bytes(LARGE[:there])
        running = await asyncio.create_subprocess_exec(
            *COMMANDS[program],
            f"{mirror}/org/model/resolve/main/{NAME}",
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(running.communicate(), 60)
        # curl calls a file that is complete a failure, with nginx too: the answer is 416.
        is_over = program == "curl" and there == len(LARGE)
        assert running.returncode == (22 if is_over else 0), err.decode()
        got = target.read_bytes()
        assert hashlib.sha256(got).digest() == hashlib.sha256(LARGE).digest()
