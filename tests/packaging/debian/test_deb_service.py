"""The installed package under a real systemd: start, status, activation, reload, kills, roles."""

from __future__ import annotations

import re

import pytest

from tests.support.packaging.package_machine import SOCKET, Machine, pause, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(900)]


def running(machine: Machine) -> bool:
    """Whether the unit runs and its daemon answers."""
    return machine.unit("ActiveState") == "active" and machine.ctl("id").code == 0


def test_installation_enables_and_starts_everything(machine: Machine) -> None:
    for unit in ("service", "socket"):
        assert machine.run("systemctl", "is-enabled", f"aitorrentd.{unit}").out == "enabled\n"
        assert machine.run("systemctl", "is-active", f"aitorrentd.{unit}").out == "active\n"
    for unit in ("aitorrent-worker.socket", "aitorrent-sandbox.socket"):
        assert machine.run("systemctl", "is-enabled", unit).out == "enabled\n"
        assert machine.run("systemctl", "is-active", unit).out == "active\n"
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend").out == ""


def test_whoever_waits_for_the_start_finds_a_daemon_that_answers(machine: Machine) -> None:
    machine.run("systemctl", "stop", "aitorrentd.service")
    machine.run("systemctl", "start", "aitorrentd.service")
    done = machine.ctl("--json", "--timeout", "2", "status")
    assert done.code == 0, done.text
    assert '"running"' in done.out


def test_ready_is_said_only_when_the_plugins_have_settled(probed: Machine) -> None:
    probed.sh("echo 'plugins: {probe: {start_s: 15}}' > /etc/aitorrent.yaml.d/10-test.yaml")
    probed.run("systemctl", "stop", "aitorrentd.service")
    probed.run("systemctl", "start", "--no-block", "aitorrentd.service")
    # The control socket answers before that, so that people can watch.
    until(lambda: probed.ctl("--timeout", "1", "id").code == 0)
    until(lambda: probed.plugins()["probe"] == "starting", every_s=0.05)
    assert probed.unit("ActiveState") == "activating"
    until(lambda: probed.unit("ActiveState") == "active", 60)
    assert probed.plugins()["probe"] == "running"


def test_unit_says_in_one_line_how_the_daemon_is(machine: Machine) -> None:
    shown = machine.run("systemctl", "status", "--no-pager", "aitorrentd").out
    assert re.search(r"Status: \"\d+ of \d+ plugins running; 0 peers\"", shown), shown


def test_drain_is_shown_by_the_unit_at_once(machine: Machine) -> None:
    assert machine.ctl("drain", "--timeout", "5").code == 0
    until(lambda: machine.unit("StatusText").startswith("draining"), 5)
    assert machine.ctl("drain", "--undo").code == 0
    until(lambda: "plugins running" in machine.unit("StatusText"), 5)


def test_client_starts_a_stopped_daemon_through_the_socket(machine: Machine) -> None:
    node = machine.identity()
    machine.run("systemctl", "stop", "aitorrentd.service")
    assert machine.unit("ActiveState") == "inactive"
    assert machine.unit("ActiveState", "aitorrentd.socket") == "active"
    assert machine.identity() == node
    until(lambda: machine.unit("ActiveState") == "active")
    assert machine.unit("ActiveState", "aitorrent-worker.socket") == "active"


def test_socket_is_for_root_and_the_group(machine: Machine) -> None:
    shown = machine.run("stat", "-c", "%U %G %a", SOCKET).out
    assert shown == "aitorrent aitorrent 660\n"


def test_user_outside_the_group_is_told_which_to_join(machine: Machine) -> None:
    machine.sh("id alice >/dev/null 2>&1 || useradd -m alice")
    done = machine.ctl("status", user="alice")
    assert done.code == 77
    assert "adduser" in done.err and "aitorrent" in done.err


def test_user_in_the_group_is_served(machine: Machine) -> None:
    machine.sh("id bob >/dev/null 2>&1 || useradd -m bob; adduser --quiet bob aitorrent")
    done = machine.ctl("status", user="bob")
    assert done.code == 0, done.text
    assert machine.ctl("plugin", "restart", "inference", user="bob").code == 0
    assert machine.ctl("call", "node.stop", user="bob").code == 77


def test_reload_puts_a_changed_file_in_force(machine: Machine) -> None:
    pid = machine.unit("MainPID")
    machine.sh("echo 'log: {level: debug}' > /etc/aitorrent.yaml.d/10-test.yaml")
    after = machine.now()
    machine.run("systemctl", "reload", "aitorrentd")
    assert machine.call("config.get", "key=log.level")["value"] == "debug"
    assert "applied: log.level" in machine.journal(after)
    assert machine.unit("MainPID") == pid


def test_reload_of_a_damaged_file_fails_and_changes_nothing(machine: Machine) -> None:
    machine.sh("echo 'log: {level: loud}' > /etc/aitorrent.yaml.d/10-test.yaml")
    assert machine.run("systemctl", "reload", "aitorrentd", check=False).code != 0
    assert machine.unit("ActiveState") == "active"
    assert machine.call("config.get", "key=log.level")["value"] == "info"


def test_settings_made_by_the_tool_survive_a_restart_and_spare_the_conffile(
    machine: Machine,
) -> None:
    conffile = machine.root / "etc/aitorrent.yaml"
    before = conffile.read_bytes()
    assert machine.ctl("plugin", "disable", "ollama").code == 0
    machine.run("systemctl", "restart", "aitorrentd")
    rows = {row["name"]: row["state"] for row in machine.call("plugin.list")["plugins"]}
    assert rows["ollama"] == "disabled"
    assert conffile.read_bytes() == before


def test_hung_daemon_is_killed_and_started_again(machine: Machine) -> None:
    node = machine.identity()
    machine.drop_in("[Service]\nWatchdogSec=3s\nRestartSec=100ms\n")
    machine.run("systemctl", "restart", "aitorrentd")
    after = machine.now()
    pid = machine.unit("MainPID")
    machine.run("kill", "-STOP", pid)
    until(lambda: machine.unit("NRestarts") == "1", 60)
    until(lambda: running(machine), 60)
    assert machine.unit("MainPID") != pid
    assert machine.identity() == node
    assert any("Watchdog timeout" in line for line in machine.journal(after))


def test_killed_daemon_comes_back_with_its_identity(machine: Machine) -> None:
    node = machine.identity()
    machine.drop_in("[Service]\nRestartSec=100ms\n")
    pid = machine.unit("MainPID")
    machine.run("kill", "-KILL", pid)
    until(lambda: machine.unit("NRestarts") == "1", 60)
    until(lambda: running(machine), 60)
    assert machine.unit("MainPID") != pid
    assert machine.identity() == node


def test_figures_of_a_running_daemon(machine: Machine, figures: dict[str, str]) -> None:
    machine.run("systemctl", "restart", "aitorrentd")
    started, ready = (
        int(machine.unit(name))
        for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    )
    figures["start to READY"] = f"{(ready - started) / 1e6:.2f} s"
    pause(5)
    status = machine.sh(f"cat /proc/{machine.unit('MainPID')}/status").out
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    figures["idle resident memory"] = f"{int(resident[1]) / 1024:.0f} MiB"
    took = [machine.ctl("status").took_s for _ in range(6)]
    figures["aitorrentctl status, first / median of the next five"] = (
        f"{took[0] * 1000:.0f} / {sorted(took[1:])[2] * 1000:.0f} ms"
    )
    figures["nsenter and env alone"] = f"{machine.run('true').took_s * 1000:.0f} ms"
