"""A start on a full disk ends with 69, and says that the disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.nodes import REPOSITORY, short_dir, wait_for

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


def start(disk: Path) -> subprocess.Popen[str]:
    run = disk.parent
    config = {
        "version": 1,
        "node": {"runtime_dir": str(run / "run"), "cache_dir": str(run / "cache")},
        "plugins": {"transport": {"listen": "127.0.0.1", "port": 0}},
    }
    file = run / "aitorrent.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "aitorrentd.main", "--config", str(file)]
    with (run / "stderr.log").open("w") as log:
        return subprocess.Popen(
            [*command, "--state-dir", str(disk / "state")],
            cwd=REPOSITORY,
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
