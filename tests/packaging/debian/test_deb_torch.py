"""An installed node that holds a model: torch in the plugin layer, computing in a worker's unit."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.support.nodes import REPOSITORY
from tests.support.packaging.package_machine import Machine, run, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(900)]

_DOWNLOAD_S: Final = 900.0
_MODEL: Final = "plugins: {shards: {models: [{name: demo, layers: all}]}}\n"


@pytest.fixture
def torch_wheels(installed: Machine, tmp_path: Path) -> str:
    """Where, on the machine, the wheels of the extra `torch` are."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]["torch"]
    options = ("--quiet", "--only-binary=:all:", "-c", REPOSITORY / "constraints.txt")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "download", *options, "-d", tmp_path, *wanted, timeout_s=_DOWNLOAD_S)
    where = ""
    for file in tmp_path.glob("*.whl"):
        where = installed.share(file).rpartition("/")[0]
        file.unlink()
    return where


def test_node_with_torch_answers_from_a_worker_of_its_own(
    machine: Machine, torch_wheels: str, figures: dict[str, str]
) -> None:
    done = machine.run(
        *("aitorrentctl", "plugin", "install", "--yes", "--no-index"),
        *("--find-links", torch_wheels, "aitorrentd[torch]"),
        timeout_s=600,
    )
    figures["plugin install 'aitorrentd[torch]', wheels at hand"] = f"{done.took_s:.0f} s"
    (machine.root / "etc/aitorrent.yaml.d/10-model.yaml").write_text(_MODEL)
    machine.run("systemctl", "restart", "aitorrentd")
    until(lambda: machine.ctl("ask", "--model", "demo", "Hello").code == 0, 120, every_s=1)

    answer = machine.ctl("ask", "--model", "demo", "What is aitorrentd?")
    assert answer.code == 0, answer.text
    assert answer.out.startswith("aitorrentd is BitTorrent for AI.")
    units = machine.run(
        *("systemctl", "list-units", "--plain", "--no-legend", "aitorrent-worker@*")
    ).out.split()
    worker = units[0]
    assert machine.unit("ActiveState", worker) == "active"

    # Whatever ends the worker, the model comes back in another one.
    machine.run("systemctl", "kill", "--signal=KILL", worker)
    until(lambda: machine.ctl("ask", "--model", "demo", "Hello").code == 0, 120, every_s=1)
