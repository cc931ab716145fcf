"""A start on a full disk ends with 69, and says that the disk is full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aitorrentd.control.aclient import AsyncClient
from tests.support.nodes import BUILT_IN_OFF, REPOSITORY, short_dir, wait_for

BUILT_IN: Mapping[str, Any] = {"transport": {"listen": "127.0.0.1", "port": 0}}
KEEPS_NOTES = """
from contextlib import asynccontextmanager
from aitorrentd.api import PluginInfo, hookimpl


class Notes:
    @hookimpl
    def aitorrent_info(self):
        return PluginInfo("notes", "keeps notes")

    @hookimpl
    def aitorrent_lifespan(self, ctx):
        return self.run(ctx)

    @asynccontextmanager
    async def run(self, ctx):
        async with ctx.db({1: "CREATE TABLE note (text)"}):
            yield
"""

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]


@pytest.fixture
def disk() -> Iterator[Callable[[str], Path]]:
    """Mounts a disk with the given options of tmpfs."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = short_dir() / "disk"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "test", place], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def start(
    disk: Path, plugins: Mapping[str, Any] = BUILT_IN, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    run = disk.parent
    config = {
        "version": 1,
        "node": {"runtime_dir": str(run / "run"), "cache_dir": str(run / "cache")},
        "plugins": plugins,
    }
    file = run / "aitorrent.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "aitorrentd.main", "--config", str(file)]
    with (run / "stderr.log").open("w") as log:
        return subprocess.Popen(
            [*command, "--state-dir", str(disk / "state")],
            cwd=REPOSITORY,
            env={**os.environ, **(env or {})},
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
        )


# Full for the key, for the lock file, for the key's temporary file.
@pytest.mark.parametrize("options", ["size=4k", "nr_inodes=2", "nr_inodes=3", "nr_inodes=1"])
def test_start_on_a_full_disk_is_no_configuration_error(
    options: str, disk: Callable[[str], Path]
) -> None:
    place = disk(options)
    assert start(place).wait(60) == 69
    (line,) = (place.parent / "stderr.log").read_text().splitlines()
    assert line.startswith(f"aitorrentd: cannot write to {place}/state")
    assert "the disk is full" in line


async def test_database_on_a_full_disk_is_not_called_damaged(disk: Callable[[str], Path]) -> None:
    place = disk("size=16k")
    log = place.parent / "stderr.log"
    daemon = start(place)
    try:
        await wait_for(lambda: "the disk is full" in log.read_text(), 60)
        assert "restore a backup" not in log.read_text()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()


async def test_plugin_with_a_database_outwaits_a_full_disk(disk: Callable[[str], Path]) -> None:
    place = disk("size=128k")
    beside = place.parent / "beside"
    info = beside / "case_notes-1.dist-info"
    info.mkdir(parents=True)
    (beside / "case_notes.py").write_text(KEEPS_NOTES)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: case-notes\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[aitorrentd.plugins]\nnotes = case_notes:Notes\n")
    room = shutil.disk_usage(place).free
    (place / "fill").write_bytes(bytes(room - 12 * 1024))
    daemon = start(place, BUILT_IN_OFF, {"PYTHONPATH": str(beside)})
    try:
        socket = place.parent / "run" / "control.sock"
        await wait_for(socket.exists, 60)
        async with await AsyncClient.connect(socket, 60) as client:

            async def restarted() -> dict[str, Any] | None:
                rows = (await client.call("plugin.list"))["plugins"]
                found: dict[str, Any] = next(row for row in rows if row["name"] == "notes")
                return found if found["restarts"] >= 2 else None

            found = await wait_for(restarted, 60)
            assert found is not None
            text = "the disk is full: cannot write the database "
            if found["state"] == "failed":  # it may just be trying again
                assert found["detail"].startswith(text)
                assert "; next attempt in " in found["detail"]
            (place / "fill").unlink()
            await client.call("node.wait", {"plugin": "notes", "timeout_s": 60})
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
        log = (place.parent / "stderr.log").read_text()
        assert log.count(f"plugin notes failed: {text}") == 1
    finally:
        daemon.kill()
        daemon.wait()
