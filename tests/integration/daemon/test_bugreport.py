"""`aitorrentctl bugreport`: helpful, with and without a daemon, and without secrets."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from aitorrentd.doctor import bugreport
from aitorrentd.errors import Unavailable
from aitorrentd.system import unit
from tests.support.nodes import REPOSITORY, Daemon, DaemonFactory
from tests.support.servers.ollama_server import FakeOllama

PSK = "correct-horse-battery-staple-0123456789"
API_KEY = "k3y-that-nobody-may-see"
TOKEN = "tok-in-a-file-of-its-own"
PROMPT = "Do I have the plague, doctor Rieux?"


def ctl(*arguments: str | Path, cwd: Path | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "aitorrentd.cli.main", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/plugins"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def opened(archive: Path) -> dict[str, str]:
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member)
            assert content is not None
            files[member.name.partition("/")[2]] = content.read().decode()
    return files


async def reported(daemon: Daemon, archive: Path) -> dict[str, str]:
    code, out, err = await asyncio.to_thread(
        ctl, "--socket", daemon.socket, "bugreport", "-o", archive
    )
    assert code == 0, err
    assert f"wrote {archive}" in out
    return opened(archive)


@pytest.mark.allow_error_log
async def test_report_holds_what_helps_and_no_planted_secret(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    async with FakeOllama() as server:
        daemon = await daemon_factory(
            {
                "log": {"level": "debug"},
                "node": {"name": "garden-shed"},
                "plugins": {
                    "transport": {
                        "psk": PSK,
                        "bootstrap": ["198.51.100.23:8468"],
                    },
                    "ollama": {"url": server.url},
                    "openai": {
                        "servers": [
                            {"name": "a", "url": f"{server.url}/v1", "api_key": API_KEY},
                            {
                                "name": "b",
                                "url": f"{server.url}/v1",
                                "api_key": {"file": str(token)},
                            },
                        ]
                    },
                },
            }
        )
        code, _, err = await asyncio.to_thread(ctl, "--socket", daemon.socket, "ask", PROMPT)
        assert code == 0, err
        files = await reported(daemon, tmp_path / "report.tar.gz")
        identity = (daemon.state_dir / "identity.key").read_text().split()
        node = await daemon.call("node.id")
    expected = {"README.txt", "versions.json", "doctor.json", "status.json", "plugins.json"}
    assert expected | {"config.json", "daemon.log"} <= set(files)
    whole = "\n".join(files.values())
    seed = base64.b64decode(identity[1])
    for secret in (PSK, API_KEY, TOKEN, PROMPT, identity[1], identity[2], seed.hex(), node["id"]):
        assert secret not in whole, secret
    assert "198.51.100.23" not in whole
    config = json.loads(files["config.json"])["config"]
    assert config["plugins"]["transport"]["bootstrap"] == ["…:8468"]
    status = json.loads(files["status.json"])
    assert (status["state"], status["id"]) == ("running", f"…{node['id'][-8:]}")
    assert "plugin transport is running" in files["daemon.log"]
    assert json.loads(files["versions.json"])["daemon"]["version"]
    assert {c["name"] for c in json.loads(files["doctor.json"])["checks"]} >= {"disk", "config"}


def test_report_without_a_daemon_says_what_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(
        f"node: {{state_dir: {tmp_path}/s}}\nplugins: {{transport: {{psk: {PSK}}}}}\n"
    )
    code, out, err = ctl(
        "--socket", tmp_path / "none", "--json", "bugreport", "--config", config, cwd=tmp_path
    )
    assert code == 0, err
    assert "the daemon's own data is missing" in err
    reply = json.loads(out)
    archive = Path(reply["file"])
    assert archive.parent == tmp_path
    assert archive.stat().st_mode & 0o777 == 0o600
    files = opened(archive)
    assert set(files) == {f["name"] for f in reply["files"]}
    assert "status.json: no daemon answers" in files["errors.txt"]
    assert json.loads(files["config.json"])["config"]["plugins"]["transport"]["psk"] == "•••"
    assert PSK not in "".join(files.values())


def test_journal_that_this_user_may_not_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    active = subprocess.CompletedProcess([], 0, "ActiveState=active\n", "")
    systemd = unit.Systemd(booted=Path("/"), ask=lambda *_, **__: active)
    monkeypatch.setattr(unit, "SYSTEM", systemd)
    empty = subprocess.CompletedProcess([], 0, stdout="\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: empty)
    with pytest.raises(Unavailable, match="this user may not read the journal; use sudo"):
        bugreport._journal()


def test_report_about_a_broken_configuration_has_no_secret_either(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(f"plugins:\n  transport:\n    psk: {PSK}\n    port: [\n")
    archive = tmp_path / "r.tar.gz"
    code, _, _ = ctl("--socket", tmp_path / "none", "bugreport", "--config", config, "-o", archive)
    assert code == 0
    files = opened(archive)
    assert PSK not in "".join(files.values())
    assert "not YAML" in files["doctor.json"]


def test_archive_is_never_overwritten(tmp_path: Path) -> None:
    archive = tmp_path / "r.tar.gz"
    archive.write_text("mine")
    code, _, err = ctl("--socket", tmp_path / "none", "bugreport", "-o", archive)
    assert code == 1
    assert "already exists; choose another path with -o" in err
    assert archive.read_text() == "mine"
    code, _, err = ctl("--socket", tmp_path / "none", "bugreport", "-o", tmp_path / "no" / "r")
    assert code == 1
    assert "cannot write" in err.lower()
