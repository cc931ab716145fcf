"""The doctor without a daemon."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from aitorrentd.doctor.checks import run_offline
from aitorrentd.runtime.identity import encode


def checks(tmp_path: Path, text: str = "") -> dict[str, dict[str, Any]]:
    file = tmp_path / "a.yaml"
    file.write_text(f"node: {{state_dir: {tmp_path}/state}}\ncontrol: {{socket: null}}\n{text}")
    return {check["name"]: check for check in run_offline(file)}


def test_all_is_well_on_a_new_machine(tmp_path: Path) -> None:
    found = checks(tmp_path, "plugins: {transport: {port: 0}}")
    assert {name for name, check in found.items() if check["status"] == "fail"} == set()
    assert found["directories"]["text"] == f"{tmp_path}/state is created at the first start"
    assert set(found["config"]) == {"name", "plugin", "summary", "status", "text", "remedy"}
    assert not (tmp_path / "state").exists()


def test_broken_file_is_the_only_finding(tmp_path: Path) -> None:
    found = checks(tmp_path, "log: [")
    assert list(found) == ["config"]
    assert found["config"]["status"] == "fail"
    assert "not YAML" in found["config"]["text"]


def test_wrong_plugin_setting_is_found(tmp_path: Path) -> None:
    found = checks(tmp_path, "plugins: {inferense: {}}")
    assert found["config"]["status"] == "fail"
    assert "did you mean inference?" in found["config"]["text"]


def test_key_that_others_can_read_comes_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    key = tmp_path / "state" / "identity.key"
    key.write_bytes(encode(bytes(32)))
    key.chmod(0o644)
    found = checks(tmp_path)["identity"]
    assert (found["status"], found["remedy"]) == ("fail", f"chmod 600 {key}")


def test_state_directory_that_others_can_write_is_found(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    found = checks(tmp_path)["directories"]
    assert (found["status"], found["remedy"]) == ("fail", f"chmod go-w {tmp_path}/state")


def test_port_that_is_taken_is_found(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = f"plugins: {{transport: {{port: {port}, listen: [127.0.0.1]}}}}"
        found = checks(tmp_path, text)["port"]
    assert found["status"] == "fail"
    assert f"port {port}/tcp: Address already in use" in found["text"]
