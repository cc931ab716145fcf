"""A plugin of a third party on an installed daemon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.packaging.package_machine import Machine

# Types into an interactive zsh, and prints what its completion shows.
ZSH = r"""
import os, pty, select, sys, time
typed, *wanted = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0:
    os.execv("/usr/bin/zsh", ["zsh", "-f", "-i"])
end, seen = time.monotonic() + 30, ""
def see(*words):
    global seen
    while not all(word in seen for word in words) and time.monotonic() < end:
        if select.select([fd], [], [], 0.2)[0]:
            seen += os.read(fd, 65536).decode(errors="replace")
os.write(fd, b"stty cols 200; autoload -Uz compinit; compinit -u -D; LISTMAX=0; echo SET''UP\n")
see("SETUP")
seen = ""
os.write(fd, typed.encode() + b"\t\t")
see(*wanted)
print(seen)
os.kill(pid, 9)
"""
SUBCOMMANDS = ("disable", "enable", "info", "install", "list", "new", "rebuild", "remove")

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(900)]


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


def test_zsh_completes_subcommands_and_plugins_commands(
    machine: Machine, hello_wheel: Path
) -> None:
    machine.install_plugin(hello_wheel)
    shown = machine.run("python3", "-c", ZSH, "aitorrentctl plugin ", *SUBCOMMANDS).out
    assert all(re.search(rf"{name} +-- \S", shown) for name in SUBCOMMANDS), shown
    shown = machine.run("python3", "-c", ZSH, "aitorrentctl hel", "hello").out
    assert "hello" in shown


def test_fish_completes_subcommands_and_plugins_commands(
    machine: Machine, hello_wheel: Path
) -> None:
    machine.install_plugin(hello_wheel)
    shown = machine.run("fish", "-c", "complete -C 'aitorrentctl plugin '").out.splitlines()
    assert set(SUBCOMMANDS) < {line.partition("\t")[0] for line in shown}
    assert all(line.partition("\t")[2] for line in shown)
    shown = machine.run("fish", "-c", "complete -C 'aitorrentctl hel'").out.splitlines()
    assert [line.partition("\t")[0] for line in shown] == ["hello"]
