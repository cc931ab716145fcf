"""`aitorrentctl hub`: what people and programs read, and what is installed where."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitorrent_hub import cli, cli_hook
from aitorrent_hub.methods import ScanParams, ScanResult, ScanRow, StatusResult
from aitorrentd.api import Method
from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import CommandFailed, Options
from tests.support.control_server import ServerThread

LISTENING = ["127.0.0.1:8042"]


def status(call: Any, params: Any) -> StatusResult:
    return StatusResult(
        upstream="https://huggingface.co", listening=list(LISTENING),
        problem="" if LISTENING else "cannot listen on 127.0.0.1:8042/tcp", swarm=True, files=2,
        bytes=3 * 2**30, downloads=1, fetched_bytes=2**20, wrong_files=0,
        sent={"here": 2**20, "swarm": 0, "hub": 5}, requests={"files": 7},
    )  # fmt: skip


def scan(call: Any, params: ScanParams) -> ScanResult:
    row = ScanRow(
        repo=params.repo, commit="c" * 40, path="evil\x1b[31m.bin", sha256="a" * 64, size=2**30,
        state="wrong", reason=params.directory,
    )  # fmt: skip
    return ScanResult(files=[row], counts={"wrong": 1, "small": 2})


@pytest.fixture(autouse=True)
def daemon(tmp_path: Path) -> Iterator[None]:
    methods = [
        Method("hub.status", status, "", result=StatusResult),
        Method("hub.scan", scan, "", ScanParams, ScanResult),
    ]
    toolkit.set_options(Options(socket=str(tmp_path / "s")))
    with ServerThread(tmp_path / "s", *methods):
        yield
    toolkit.start_over()
    LISTENING[:] = ["127.0.0.1:8042"]


def test_env_is_for_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    cli.env()
    assert capsys.readouterr().out == "export HF_ENDPOINT=http://127.0.0.1:8042\n"


def test_env_without_a_mirror_says_why() -> None:
    LISTENING.clear()
    with pytest.raises(CommandFailed, match="does not listen: cannot listen on 127.0.0.1:8042"):
        cli.env()


def test_status(capsys: pytest.CaptureFixture[str]) -> None:
    cli.status()
    out = capsys.readouterr().out
    assert "http://127.0.0.1:8042" in out
    assert "2 files, 3.0 GiB" in out
    assert "here 1.0 MiB, swarm 0 B, hub 5 B" in out


def test_scan_shows_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli.scan(tmp_path, repo="org/model")
    out = capsys.readouterr().out
    assert "wrong" in out and str(tmp_path) in out and "2 small, 1 wrong" in out
    assert "\x1b" not in out


def test_missing_cache_is_said_with_what_to_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(CommandFailed, match="name a cache or a local_dir: aitorrentctl hub scan"):
        cli.scan(None, repo="")


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"HF_HUB_CACHE": "/data/hub"}, "/data/hub"),
        ({"HF_HOME": "/data/hf"}, "/data/hf/hub"),
        ({"XDG_CACHE_HOME": "/data/cache"}, "/data/cache/huggingface/hub"),
        ({"HOME": "/home/u"}, "/home/u/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: str
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli._default_cache() == place


def test_the_hook_is_installed_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    python = str(tmp_path / "bin" / "python")
    cli_hook.install(python)
    code = "import sys; print('aitorrent_hf' in sys.modules)"

    def loaded(**env: str) -> str:
        done = subprocess.run(
            [python, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert loaded(AITORRENT_HF="1") == "True"
    assert loaded() == loaded(AITORRENT_HF="0") == "False"
    cli_hook.remove(python)
    assert loaded(AITORRENT_HF="1") == "False"
    assert "removed" in capsys.readouterr().out
    cli_hook.remove(python)
    assert "has no hook" in capsys.readouterr().out


def test_the_hook_costs_no_heavy_import(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); import aitorrent_hf; aitorrent_hf.enable();"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert not loaded & {"aitorrentd", "asyncio", "msgpack", "importlib", "socket", "json"}


@pytest.mark.parametrize(
    ("python", "reason"), [("/nonexistent", "no such program"), ("/bin/false", "is no Python")]
)
def test_a_python_that_is_none(python: str, reason: str) -> None:
    with pytest.raises(CommandFailed, match=reason):
        cli_hook.install(python)
