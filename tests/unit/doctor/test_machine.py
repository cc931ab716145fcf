"""Doctor findings about the machine: files, socket, unit, plugin layer; one remedy each."""

from __future__ import annotations

import grp
import os
import socket
import subprocess
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.control.answers import unreachable
from aitorrentd.doctor.checks import run_offline
from aitorrentd.doctor.host import versions
from aitorrentd.doctor.machine import machine_checks
from aitorrentd.installing import layer as layers
from aitorrentd.installing.target import Target
from aitorrentd.runtime.identity import load_or_create
from aitorrentd.system import unit
from aitorrentd.system.unit import Systemd
from tests.support.operations_cores import make_wheel

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="hardware: needs root")


def offline(tmp_path: Path, text: str = "") -> dict[str, dict[str, Any]]:
    file = tmp_path / "a.yaml"
    file.write_text(f"node: {{state_dir: {tmp_path}/state}}\n{text}")
    return {check["name"]: check for check in run_offline(file)}


def machine(**options: Any) -> dict[str, Any]:
    return {check.name: check for check in machine_checks(**{"with_unit": False} | options)}


def systemctl(**properties: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """What shows these properties of every unit."""
    shown = "".join(f"{name}={value}\n" for name, value in properties.items())
    return lambda *_, **__: subprocess.CompletedProcess([], 0, shown, "")


def test_read_only_file_system_is_told_apart_from_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    real = os.statvfs(tmp_path)
    fields = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}
    read_only = types.SimpleNamespace(**{**fields, "f_flag": os.ST_RDONLY})
    monkeypatch.setattr(os, "statvfs", lambda path: read_only)
    found = offline(tmp_path)["directories"]
    assert found["status"] == "fail"
    assert found["text"] == f"{tmp_path}/state is on a read-only file system"
    assert found["remedy"].startswith("mount -o remount,rw /")


@pytest.mark.root
@NEEDS_ROOT
def test_state_that_another_user_left_behind_is_found(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "peers.sqlite").touch()
    os.chown(state, 65534, 65534)
    found = offline(tmp_path)["directories"]
    assert (found["status"], found["remedy"]) == ("fail", f"chown -R --reference={state} {state}")


def test_secret_in_a_file_that_everybody_reads_is_found(tmp_path: Path) -> None:
    text = "plugins: {transport: {psk: correct-horse-battery-staple}}"
    (tmp_path / "a.yaml").touch(mode=0o644)
    (tmp_path / "a.yaml").chmod(0o644)
    found = offline(tmp_path, text)["secrecy"]
    assert found["status"] == "warn"
    assert found["remedy"].startswith(f"chmod o-r {tmp_path}/a.yaml")
    assert "correct-horse" not in str(found)
    (tmp_path / "a.yaml").chmod(0o600)
    assert offline(tmp_path, text)["secrecy"]["status"] == "ok"
    (tmp_path / "a.yaml").chmod(0o644)
    (tmp_path / "key").write_text("correct-horse-battery-staple")
    reference = f"plugins: {{transport: {{psk: {{file: {tmp_path}/key}}}}}}"
    assert offline(tmp_path, reference)["secrecy"]["status"] == "ok"


def test_socket_that_was_left_over_is_told_apart_from_none(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    text = f"control: {{socket: {path}}}"
    assert offline(tmp_path, text)["control-socket"]["text"] == f"no daemon answers at {path}"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    found = offline(tmp_path, text)["control-socket"]
    assert found["status"] == "warn"
    assert "was left by a daemon that ended" in found["text"]


def test_missing_library_is_named() -> None:
    found = versions(["wsproto"])
    assert (found.status, "lacks wsproto" in found.text) == ("fail", True)


@pytest.mark.parametrize(
    ("properties", "status", "remedy"),
    [
        ("loaded active enabled", "ok", ""),
        ("loaded active disabled", "ok", "systemctl enable aitorrentd.service"),
        ("loaded inactive enabled", "warn", "systemctl start aitorrentd.service"),
        ("loaded inactive disabled", "warn", "systemctl enable --now aitorrentd.service"),
        (
            "loaded failed enabled",
            "fail",
            "journalctl -u aitorrentd.service -n 50; then: "
            "systemctl reset-failed aitorrentd.service && systemctl start aitorrentd.service",
        ),
        ("loaded activating enabled", "warn", "wait, or see: systemctl status aitorrentd.service"),
        ("masked inactive masked", "warn", "systemctl unmask aitorrentd.service"),
        ("not-found inactive -", "ok", ""),
    ],
)
def test_unit_is_judged_by_its_state(
    tmp_path: Path, properties: str, status: str, remedy: str
) -> None:
    names = ("LoadState", "ActiveState", "UnitFileState")
    shown = dict(zip(names, properties.split(), strict=True))
    systemd = Systemd(booted=tmp_path, ask=systemctl(**shown))
    found = machine(with_unit=True, systemd=systemd)["unit"]
    assert (found.status, found.remedy) == (status, remedy)
    assert "unit" not in machine()


def test_looking_at_a_socket_of_systemd_starts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sock"
    ask = systemctl(ActiveState="failed")
    monkeypatch.setattr(unit, "SYSTEM", Systemd(booted=tmp_path, socket=str(path), ask=ask))
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(str(path))
        systemd.listen()
        systemd.setblocking(False)
        found = offline(tmp_path, f"control: {{socket: {path}}}")["control-socket"]
        with pytest.raises(BlockingIOError, match="unavailable"):
            systemd.accept()
    assert found["text"] == (
        f"no daemon is running; systemd listens at {path} and starts one for the next client"
    )
    assert found["remedy"] == "systemctl start aitorrentd.service"


@pytest.mark.root
@NEEDS_ROOT
def test_root_finds_the_key_of_its_daemons_user_in_order(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    load_or_create(state / "identity.key")
    for path in (state, state / "identity.key"):
        os.chown(path, 65534, 65534)
    assert offline(tmp_path)["identity"]["status"] == "ok"
    # A key of a third user is nobody's, and root is not told to take it.
    os.chown(state / "identity.key", 12345, 12345)
    found = offline(tmp_path)["identity"]
    assert (found["status"], found["remedy"]) == ("fail", "run as that user")


def test_machine_without_systemd_has_no_finding_about_it(tmp_path: Path) -> None:
    none = Systemd(booted=tmp_path / "none", ask=systemctl(LoadState="loaded"))
    assert none.properties(unit.DAEMON) == {}
    assert not none.is_active(unit.DAEMON)
    assert "unit" not in machine(with_unit=True, systemd=none)


def unpacked(site: Path, name: str, **entry_points: str) -> None:
    import zipfile

    wheel = make_wheel(site.parents[3] / "w", name, plugins=entry_points)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


@pytest.mark.root
@NEEDS_ROOT
def test_layer_is_judged_by_whether_it_can_be_used(tmp_path: Path) -> None:
    layer = tmp_path / "layer"

    def found() -> tuple[str, str, str]:
        check = machine(target=Target(layer))["plugin-layer"]
        return check.status, check.text, check.remedy

    assert found()[:2] == ("ok", f"no plugins installed yet; they go into {layer}")
    (layer / "lib" / "python2.7" / "site-packages").mkdir(parents=True)
    status, text, remedy = found()
    assert (status, "another Python" in text) == ("fail", True)
    assert remedy == "sudo aitorrentctl plugin rebuild"
    site = layers.packages(layer)
    site.mkdir(parents=True)
    unpacked(site, "aitorrent-tiny", tiny="m:C")
    assert found() == ("ok", f"{layer} contains tiny", "")
    unpacked(site, "pluggy")
    assert found()[::2] == ("warn", "sudo aitorrentctl plugin rebuild")
    site.chmod(0o777)
    status, text, remedy = found()
    assert (status, "none of its plugins is loaded" in text) == ("fail", True)
    assert remedy == f"chown -R root:root {layer} && chmod -R go-w {layer}"


def test_group_is_missed_only_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(settings: str = "") -> dict[str, Any]:
        text = f"control: {{socket: {path}{settings}}}"
        return offline(tmp_path, text)["control-socket"]

    path = tmp_path / "c.sock"
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        daemon.listen()
        assert (found()["status"], found()["remedy"]) == ("ok", "")
        chosen = found(", group: operators")
        assert chosen["status"] == "warn"
        assert "addgroup --system operators" in chosen["remedy"]
        (tmp_path / unit.DAEMON).touch()
        system = Systemd(socket=str(path), booted=tmp_path, units=(tmp_path,))
        monkeypatch.setattr(unit, "SYSTEM", system)
        assert found()["status"] == "warn"


def test_core_without_a_layer_says_where_plugins_go() -> None:
    assert machine(target=Target(None))["plugin-layer"].status == "ok"


def test_service_is_recommended_only_where_systemd_manages_it(tmp_path: Path) -> None:
    booted, units = tmp_path / "booted", tmp_path / "units"
    units.mkdir()
    active = Systemd(booted=booted, units=(units,), ask=systemctl(ActiveState="active"))
    idle = replace(active, ask=systemctl(ActiveState="inactive"))

    def hint(path: str) -> str:
        error = FileNotFoundError(2, "No such file")
        return (
            unreachable(path, error, systemd=active).message.partition("; ")[2].partition(", or")[0]
        )

    by_hand = ("start one: aitorrentd", "restart the daemon")
    assert (hint(unit.SOCKET), active.restart_remedy(unit.SOCKET)) == by_hand
    booted.mkdir()
    assert (hint(unit.SOCKET), active.restart_remedy(unit.SOCKET)) == by_hand
    (units / unit.DAEMON).touch()
    assert hint(unit.SOCKET) == "see systemctl status aitorrentd"
    assert active.restart_remedy(unit.SOCKET) == "systemctl restart aitorrentd"
    assert (hint("/run/user/1/own"), active.restart_remedy("/run/user/1/own")) == by_hand
    assert idle.restart_remedy(unit.SOCKET) == by_hand[1]
