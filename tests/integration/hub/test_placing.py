"""Files that the hook places into the cache of huggingface_hub: whole under their name, or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import DaemonFactory
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.servers.hub.mirrors import Program, files_in, mirror_config
from tests.support.servers.hub.repos import File, weights

LARGE = weights(4_000_000)
MODEL = "model.safetensors"
FILES = {"config.json": b"{}", MODEL: LARGE}
SNAPSHOT = "import huggingface_hub as h; print(h.snapshot_download('org/model'))"
HOOK = "import aitorrent_hf; aitorrent_hf.enable(); "
HALF = """
import aitorrent_hf, errno, os, signal
def half(source, target):
    with open(source, 'rb') as whole, open(target, 'wb') as part:
        part.write(whole.read(2_000_000))
    {then}
aitorrent_hf._copy = half
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/model", FILES)
        yield hub


def named(program: Program) -> list[Path]:
    """What the cache has under the name of the large file: its digest, and its path."""
    cache = program.home / "hub"
    return [p for p in cache.rglob("*") if p.name in (File(LARGE).sha256, MODEL)]


async def test_program_killed_while_a_file_is_placed_leaves_no_half_file_under_its_name(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = Program(hub.url, env={"AITORRENT_SOCKET": str(daemon.socket)})
    killed = HALF.format(then="os.kill(os.getpid(), signal.SIGKILL)")
    status, text = await program.ran([program.python, "-c", killed + HOOK + SNAPSHOT])
    assert status == -9, text
    assert named(program) == []

    path = await program.run(HOOK + SNAPSHOT)
    assert files_in(Path(path.splitlines()[-1])) == FILES
    assert len(hub.bodies(MODEL)) == 1, "the node had it"


async def test_file_that_cannot_be_placed_comes_over_http(
    daemon_factory: DaemonFactory, hub: FakeHub
) -> None:
    daemon = await daemon_factory(mirror_config(hub))
    program = Program(hub.url, env={"AITORRENT_SOCKET": str(daemon.socket)})
    full = HALF.format(then="raise OSError(errno.ENOSPC, 'No space left on device')")
    path = await program.run(full + HOOK + SNAPSHOT)
    assert files_in(Path(path.splitlines()[-1])) == FILES
    assert len(hub.bodies(MODEL)) == 2, "once by the node, once by the program"
    assert list((program.home / "hub").rglob("*.incomplete")) == []
