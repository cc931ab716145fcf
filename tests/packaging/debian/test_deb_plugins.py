"""A plugin of a third party on an installed daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.package_machine import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_installed_wheel_brings_its_command_and_its_methods(
    machine: Machine, hello_wheel: Path
) -> None:
    owned = machine.run("dpkg", "--verify", "aitorrentd").out
    machine.install_plugin(hello_wheel)
    machine.run("systemctl", "restart", "aitorrentd")
    assert machine.plugins()["hello"] == "running"
    row = machine.call("plugin.info", "name=hello")
    assert (row["tier"], row["dist"]) == ("third-party", "aitorrent-hello")
    done = machine.ctl("hello", "Ada")
    assert (done.code, done.out) == (0, "Hello, Ada!\n")
    # dpkg's own files are as they were.
    assert machine.run("dpkg", "--verify", "aitorrentd").out == owned


def test_completion_knows_the_commands_of_plugins(machine: Machine, hello_wheel: Path) -> None:
    machine.install_plugin(hello_wheel)
    script = """
        . /usr/share/bash-completion/completions/aitorrentctl
        COMP_WORDS=(aitorrentctl hel) COMP_CWORD=1
        _aitorrentctl aitorrentctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert machine.run("bash", "-ec", script).out == "hello\n"
