"""`aitorrentctl plugin new`: what it writes passes its own tests and runs in a daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nodes import DaemonFactory, short_dir
from tests.support.operations_cores import make_core


@pytest.mark.slow
async def test_new_plugin_passes_its_tests_and_runs(
    daemon_factory: DaemonFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = short_dir()
    core = make_core(room, packaged=False)
    project = room / "none-such"
    done = core.ctl("plugin", "new", "none-such", "--dir", project)
    assert done.code == 0, done.err
    assert f"wrote {project}:" in done.out
    assert core.ctl("plugin", "install", project, "--yes").code == 0
    tests = core.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", project)
    assert tests.code == 0, tests.out + tests.err
    assert "5 passed" in tests.out
    monkeypatch.setattr(sys, "executable", str(core.python))
    daemon = await daemon_factory({"plugins": {"none-such": {"greeting": "Ahoy"}}})
    assert await daemon.call("none-such.greet", {"name": "Ada"}) == {"text": "Ahoy, Ada!"}
    done = core.ctl("--socket", daemon.socket, "none-such", "Ada")
    assert (done.code, done.out) == (0, "Ahoy, Ada!\n")


def test_new_plugin_obeys_this_projects_own_linter(tmp_path: Path) -> None:
    core = make_core(tmp_path, packaged=False)
    project = tmp_path / "weather"
    assert core.ctl("plugin", "new", "weather", "--dir", project).code == 0
    for check in (["check", "--select", "E,F,W,B,UP"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "100"]
        linted = subprocess.run(
            [*command, str(project)], capture_output=True, text=True, timeout=60, check=False
        )
        assert linted.returncode == 0, linted.stdout


def test_names_that_cannot_be_and_places_that_are_taken_are_refused(tmp_path: Path) -> None:
    core = make_core(tmp_path, packaged=False)
    for name in ("Weather", "9x", "x-", "a--b", "x" * 41, "../x"):
        done = core.ctl("plugin", "new", name, "--dir", tmp_path / "p")
        assert (done.code, "is not a valid plugin name" in done.err) == (2, True), name
    for name in ("transport", "node"):
        done = core.ctl("plugin", "new", name, "--dir", tmp_path / "p")
        assert "is reserved by aitorrentd" in done.err
    assert not (tmp_path / "p").exists()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine").touch()
    done = core.ctl("plugin", "new", "weather", "--dir", tmp_path / "p")
    assert "already exists and is not empty" in done.err
    assert [f.name for f in (tmp_path / "p").iterdir()] == ["mine"]
