"""What goes wrong on machines, and what the installed daemon says about it."""

from __future__ import annotations

import json

import pytest

from tests.support.packaging.package_machine import SOCKET, Machine, pause, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(900)]

STATE = "/var/lib/aitorrent"
LAYER = "usr/local/lib/aitorrentd/plugins/lib/python3.11/site-packages"


def findings(machine: Machine) -> dict[str, str]:
    """Checks of the doctor that are not ok, with what they say."""
    done = machine.ctl("--json", "doctor")
    checks = json.loads(done.out)["checks"]
    return {
        c["name"]: f"{c['status']}: {c['text']} -> {c['remedy']}"
        for c in checks
        if c["status"] != "ok"
    }


def start_fails(machine: Machine) -> list[str]:
    """Start a daemon that cannot run; returns what it said itself."""
    machine.drop_in("[Service]\nRestartSec=100ms\n")
    machine.run("systemctl", "stop", "aitorrentd.service")
    after = machine.now()
    assert machine.run("systemctl", "start", "aitorrentd.service", check=False).code != 0
    return machine.journal(after, own=True)


def test_damaged_configuration_ends_with_78_and_one_line(machine: Machine) -> None:
    (machine.root / "etc/aitorrent.yaml").write_text("version: 1\nlog: {levle: debug}\n")
    said = start_fails(machine)
    assert said == ["log.levle: unknown key; did you mean level? (in /etc/aitorrent.yaml:2)"]
    assert machine.unit("ExecMainStatus") == "78"
    pause(1)
    assert machine.unit("NRestarts") == "0"
    assert machine.unit("ActiveState") == "failed"
    assert "levle" in findings(machine)["config"]


def test_file_that_is_no_yaml_is_named_with_its_line(machine: Machine) -> None:
    (machine.root / "etc/aitorrent.yaml").write_text("version: 1\nlog: {level: [}\n")
    said = start_fails(machine)
    assert machine.unit("ExecMainStatus") == "78"
    assert len(said) == 1
    assert said[0].startswith("/etc/aitorrent.yaml:2:")


def test_client_of_a_daemon_that_cannot_start_does_not_make_it_loop(machine: Machine) -> None:
    (machine.root / "etc/aitorrent.yaml").write_text("version: 2\n")
    start_fails(machine)
    machine.run("systemctl", "reset-failed")
    machine.run("systemctl", "start", "aitorrentd.socket")
    after = machine.now()
    assert machine.ctl("--timeout", "5", "status").code != 0
    pause(1)
    starts = machine.journal(after, own=True)
    assert len(starts) == 1
    # Once the file is right, the next client is served.
    machine.run("cp", "/var/tmp/aitorrent.yaml", "/etc/aitorrent.yaml")
    assert machine.ctl("status").code == 0


def test_doctor_looks_at_a_stopped_daemon_without_starting_it(machine: Machine) -> None:
    machine.run("systemctl", "stop", "aitorrentd.service")
    found = findings(machine)
    found.pop("clock", "")
    assert found == {
        "control-socket": (
            f"warn: no daemon is running; systemd listens at {SOCKET} and starts one for the next"
            " client -> systemctl start aitorrentd.service"
        ),
        "unit": "warn: aitorrentd.service is inactive -> systemctl start aitorrentd.service",
    }
    assert machine.unit("ActiveState") == "inactive"


def test_secret_that_only_the_unit_has_is_no_finding(machine: Machine) -> None:
    machine.sh(
        "head -c 24 /dev/urandom | base64 > /root/psk; "
        "echo 'plugins: {transport: {psk: {credential: psk}}}' > /etc/aitorrent.yaml.d/10-psk.yaml"
    )
    machine.drop_in("[Service]\nLoadCredential=psk:/root/psk\n")
    machine.run("systemctl", "restart", "aitorrentd")
    assert machine.plugins()["transport"] == "running"
    assert "valid" in machine.run("aitorrentd", "--check").out
    machine.run("systemctl", "stop", "aitorrentd.socket", "aitorrentd.service")
    assert "config" not in findings(machine)
    assert machine.ctl("config", "check").code == 0


def test_doctor_names_what_is_wrong_with_the_key_of_a_daemon_that_failed(machine: Machine) -> None:
    key = f"{STATE}/identity.key"
    machine.run("chmod", "644", key)
    try:
        said = start_fails(machine)
        assert any("run: chmod 600" in line for line in said), said
        assert findings(machine)["identity"].endswith(f"-> chmod 600 {key}")
        assert machine.unit("ActiveState") == "failed"
    finally:
        machine.run("chmod", "600", key)


def test_user_outside_the_group_is_told_that_and_nothing_about_a_node_of_his_own(
    machine: Machine,
) -> None:
    machine.sh("id alice >/dev/null 2>&1 || useradd -m alice")
    done = machine.ctl("--json", "doctor", user="alice")
    failed = [c for c in json.loads(done.out)["checks"] if c["status"] == "fail"]
    assert [c["name"] for c in failed] == ["reach"]
    assert "adduser" in failed[0]["remedy"]


def test_restarts_by_people_are_no_crash_loop(machine: Machine) -> None:
    for _ in range(7):
        machine.run("systemctl", "restart", "aitorrentd")
    assert machine.unit("ActiveState") == "active"


def test_daemon_that_keeps_failing_is_left_alone_and_doctor_says_how_to_go_on(
    machine: Machine,
) -> None:
    machine.run("systemctl", "stop", "aitorrentd.socket", "aitorrentd.service")
    # What it needs is taken: exit 69, which is tried again.
    machine.drop_in("[Service]\nRestartSec=1ms\nExecStart=\nExecStart=/bin/sh -c 'exit 69'\n")
    after = machine.now()
    machine.run("systemctl", "start", "--no-block", "aitorrentd.service")
    until(lambda: any("repeated too quickly" in line for line in machine.journal(after)), 60)
    until(lambda: machine.unit("ActiveState") == "failed")
    assert machine.unit("NRestarts") in ("19", "20")
    remedy = findings(machine)["unit"]
    assert "systemctl reset-failed aitorrentd.service && systemctl start" in remedy
    (machine.root / "etc/systemd/system/aitorrentd.service.d/test.conf").unlink()
    machine.run("systemctl", "daemon-reload")
    machine.sh(remedy.partition("; then: ")[2])
    assert machine.unit("ActiveState") == "active"


def test_read_only_state_is_said(machine: Machine) -> None:
    machine.run("systemctl", "stop", "aitorrentd.service")
    machine.sh(f"mount --bind {STATE} {STATE}; mount -o remount,bind,ro {STATE}")
    said = start_fails(machine)
    assert any(STATE in line and "read-only" in line.lower() for line in said), said
    assert "directories" in findings(machine)


def test_full_disk_is_said(machine: Machine) -> None:
    machine.run("systemctl", "stop", "aitorrentd.service")
    machine.sh(
        f"""
        mount -t tmpfs -o size=64k,mode=750 tmpfs {STATE}
        chown aitorrent:aitorrent {STATE}
        head -c 1M /dev/zero > {STATE}/fill || true
        """
    )
    said = start_fails(machine)
    assert any(STATE in line and "the disk is full" in line for line in said), said
    assert findings(machine)["disk"].startswith("fail: 0 B free")
    assert any("status=69/UNAVAILABLE" in line for line in machine.journal("-n", "50"))


def test_port_in_use_is_said_and_all_else_runs(machine: Machine) -> None:
    machine.run("systemctl", "stop", "aitorrentd.service")
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 8468)); time.sleep(300)"
    machine.run("systemd-run", "--quiet", "--unit=taken", "--collect", "python3", "-c", listen)
    try:
        until(lambda: ":8468" in machine.run("ss", "-Hltn").out)
        machine.run("systemctl", "start", "aitorrentd.service")
        status = machine.answer("status")
        assert "8468" in json.dumps(status["warnings"]), status["warnings"]
        # The node dials its peers meanwhile, and listens as soon as the port is free.
        assert machine.plugins()["transport"] == "running"
        assert machine.plugins()["ollama"] in ("running", "skipped")
    finally:
        machine.run("systemctl", "stop", "taken.service")
    until(lambda: "8468" not in json.dumps(machine.answer("status")["warnings"]), 60)


def test_broken_plugin_of_a_third_party_shows_as_broken_and_all_else_runs(
    machine: Machine,
) -> None:
    before = machine.plugins()
    site = machine.root / LAYER
    made = [site / "aitorrent_broken.py", site / "aitorrent_broken-1.0.dist-info"]
    site.mkdir(parents=True, exist_ok=True)
    made[0].write_text("raise RuntimeError('I am broken')\n")
    made[1].mkdir()
    (made[1] / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: aitorrent-broken\nVersion: 1.0\n"
    )
    (made[1] / "entry_points.txt").write_text(
        "[aitorrentd.plugins]\nbroken = aitorrent_broken:Broken\n"
        "[aitorrentd.cli]\nbroken = aitorrent_broken\n"
    )
    try:
        machine.run("systemctl", "restart", "aitorrentd")
        assert machine.plugins() == {**before, "broken": "broken"}
        assert "broken (of aitorrent-broken) is broken" in findings(machine)["plugins"]
        assert "I am broken" in json.dumps(machine.call("plugin.info", "name=broken"))
        done = machine.ctl("--help")
        assert done.code == 0
        assert "the commands of plugin broken of aitorrent-broken are unavailable" in done.err
    finally:
        machine.sh(f"rm -r /{LAYER}/aitorrent_broken*")
        machine.run("systemctl", "restart", "aitorrentd")


def test_layer_that_others_can_write_is_not_used(machine: Machine) -> None:
    machine.sh(f"mkdir -p /{LAYER}; chmod o+w /{LAYER}")
    try:
        after = machine.now()
        machine.run("systemctl", "restart", "aitorrentd")
        assert any("ignored" in line for line in machine.journal(after, own=True))
        assert not {"probe", "hello"} & set(machine.plugins())
    finally:
        machine.run("chmod", "o-w", f"/{LAYER}")
        machine.run("systemctl", "restart", "aitorrentd")
