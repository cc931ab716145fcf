"""A distribution beside aitorrentd, as processes meet it: it is named, and breaks nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.distributions import CASES, commands_module, distribution
from tests.support.nodes import REPOSITORY, DaemonFactory

DAMAGED = {"no-metadata": "case-nometa", "bad-line": "case-tool", "latin1": "case-latin"}
NO_DAEMON = 69
TOOL, DAEMON = "aitorrentd.cli.main", "aitorrentd.main"


def run(
    site: Path, module: str, *args: str, home: Path, config: str = ""
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(site), "HOME": str(home), "XDG_RUNTIME_DIR": ""}
    environ.pop("AITORRENT_SOCKET", None)
    if config:
        environ["AITORRENT_CONFIG"] = config
    return subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def tool(site: Path, home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    socket = str(home / "absent.sock")
    return run(site, TOOL, "--socket", socket, *args, home=home)


def warnings_of(ran: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in ran.stderr.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_distribution_costs_commands_one_line(case: str, tmp_path: Path) -> None:
    site, name = CASES / case, DAMAGED[case]
    peers = tool(site, tmp_path, "peers")
    assert peers.returncode == NO_DAEMON
    (line,) = warnings_of(peers)
    assert name in line
    assert peers.stderr.splitlines()[-1].startswith("Error: no daemon at ")
    shown = tool(site, tmp_path, "--help")
    assert shown.returncode == 0
    assert "\n  ask " in shown.stdout
    assert [name in line for line in warnings_of(shown)] == [True]
    assert tool(site, tmp_path, "status").stderr.startswith("Error: no daemon at ")


@pytest.mark.parametrize("case", DAMAGED)
def test_doctor_and_check_name_a_damaged_distribution(case: str, tmp_path: Path) -> None:
    site, name = CASES / case, DAMAGED[case]
    found = json.loads(tool(site, tmp_path, "--json", "doctor").stdout)["checks"]
    (check,) = [c for c in found if c["name"] == "distributions"]
    assert check["status"] == "warn"
    assert name in check["text"]
    checked = run(site, DAEMON, "--check", home=tmp_path)
    assert checked.returncode == 0
    assert checked.stdout.startswith("the configuration is valid")
    (line,) = checked.stderr.splitlines()
    assert line.startswith(f"aitorrentd: warning: distribution {name} ")


@pytest.mark.parametrize("case", DAMAGED)
async def test_daemon_starts_beside_a_damaged_distribution_and_names_it(
    case: str, daemon_factory: DaemonFactory
) -> None:
    daemon = await daemon_factory(env={"PYTHONPATH": str(CASES / case)})
    status = await daemon.call("node.status")
    (warning,) = [w for w in status["warnings"] if w["code"] == "plugin_unusable"]
    assert DAMAGED[case] in warning["text"]
    found = (await daemon.call("node.doctor"))["checks"]
    (check,) = [c for c in found if c["name"] == "distributions"]
    assert (check["status"], DAMAGED[case] in check["text"]) == ("warn", True)
    logged = (daemon.directory / "stderr.log").read_text()
    assert f"warning kernel: distribution {DAMAGED[case]} " in logged


def test_a_strangers_command_never_takes_the_name_of_a_built_in(tmp_path: Path) -> None:
    asked = tool(CASES / "takes-ask", tmp_path, "ask", "hello")
    assert "taken" not in asked.stdout
    assert asked.returncode == NO_DAEMON
    assert [("'ask'" in w and "case-ask" in w) for w in warnings_of(asked)] == [True]
    assert tool(CASES / "takes-ask", tmp_path, "case").stdout == "case\n"
    shown = tool(CASES / "takes-ask", tmp_path, "--help")
    assert "Not the real one" not in shown.stdout
    assert "\n  case " in shown.stdout
    found = json.loads(tool(CASES / "takes-ask", tmp_path, "--json", "doctor").stdout)["checks"]
    (check,) = [c for c in found if c["name"] == "commands"]
    assert check["status"] == "warn"
    assert "case-ask" in check["text"]


@pytest.mark.parametrize(
    "first",
    [
        "print('loading')",
        "import os; os.write(1, b'loading')",
        "import os; os.system('echo loading')",
        "import sys; out = sys.stdout; sys.stdout = sys.stderr; out.write('loading')",
        "import sys; sys.__stdout__.write('loading')",
    ],
)
def test_what_an_import_prints_is_no_output_of_a_command(first: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    distribution(site, "prints", commands="p = prints", module=commands_module("own", first))
    ran = tool(site, tmp_path, "own")
    assert ran.stdout == "from own\n"
    assert "loading" in ran.stderr
    shown = tool(site, tmp_path, "--help")
    assert "loading" not in shown.stdout
    assert "\n  own " in shown.stdout


def test_json_stays_json_beside_a_module_that_prints(tmp_path: Path) -> None:
    site = tmp_path / "site"
    distribution(site, "prints", commands="p = prints", module=commands_module("own", "print(1)"))
    plugin = "print('loading')\nclass Plugin: pass\n"
    distribution(site, "speaks", plugins="speaks = speaks:Plugin", module=plugin)
    for args in (["doctor"], ["config", "check"]):
        json.loads(tool(site, tmp_path, "--json", *args).stdout)
    assert tool(CASES / "prints", tmp_path, "--json", "peers").stdout == ""


def test_built_in_commands_import_nobody_elses_modules(tmp_path: Path) -> None:
    site = tmp_path / "site"
    mark = tmp_path / "imported"
    first = f"open({str(mark)!r}, 'w')"
    distribution(site, "slow", commands="s = slow", module=commands_module("own", first))
    for args in (["peers"], ["ask", "x"], ["models"], ["peers", "--help"], ["nothing-of-the-kind"]):
        tool(site, tmp_path, *args)
        assert not mark.exists(), args
    assert tool(site, tmp_path, "own").stdout == "from own\n"
    assert mark.exists()


def test_slow_module_of_another_costs_built_in_commands_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The import sleeps for 6 s; with this, Python lists what it imports.
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    for args in (["peers"], ["ask", "x"]):
        imported = tool(CASES / "slow", tmp_path, *args).stderr
        assert "| aitorrentd.cli" in imported
        assert "case_slow" not in imported


def test_completing_a_word_imports_and_says_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    distribution(site, "ends", commands="e = ends", module=commands_module("own", "exit(3)"))
    (site / "worse-1.dist-info").mkdir()
    (site / "worse-1.dist-info" / "entry_points.txt").write_bytes(b"x")
    ran = subprocess.run(
        [sys.executable, "-m", TOOL],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": str(site),
            "_AITORRENTCTL_COMPLETE": "complete_bash",
            "COMP_WORDS": "aitorrentctl o",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout.split(), ran.stderr) == (["own"], "")


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit('no way')", "SystemExit: no way"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("import no_such_module_here", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("x = " + "(" * 2000 + ")" * 2000, "Error"),
    ],
)
def test_module_that_ends_or_fails_at_import_costs_its_own_commands_only(
    first: str, why: str, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    distribution(site, "ends", commands="e = ends", module=commands_module("own", first))
    distribution(site, "fine", commands="f = fine", module=commands_module("fine"))
    assert tool(site, tmp_path, "fine").stdout == "from fine\n"
    assert tool(site, tmp_path, "peers").stderr.startswith("Error: no daemon at ")
    shown = tool(site, tmp_path, "--help")
    assert shown.returncode == 0
    assert "\n  fine " in shown.stdout
    assert "\n  own " not in shown.stdout
    for ran in (shown, tool(site, tmp_path, "own")):
        (line,) = warnings_of(ran)
        assert line.startswith("warning: the commands of plugin e of ends are unavailable: ")
        assert why in line


def test_two_distributions_with_one_command_get_it_neither(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("one", "two"):
        distribution(site, name, commands=f"{name} = {name}", module=commands_module("own"))
    ran = tool(site, tmp_path, "own")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ["one of one and two of two" in line for line in warnings_of(ran)] == [True]


def test_register_gets_only_the_commands_that_it_declares(tmp_path: Path) -> None:
    site = tmp_path / "site"
    module = commands_module("own") + (
        '\n    @app.command("status")\n    def status():\n        print("taken")\n'
    )
    distribution(site, "greedy", commands="g = greedy", module=module)
    lines = "own\nstatus\n"
    socket = str(tmp_path / "absent.sock")
    ran = subprocess.run(
        [sys.executable, "-m", TOOL, "--socket", socket, "shell"],
        input=lines,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "from own\n"
    assert ran.stderr.startswith("Error: no daemon at ")


def test_two_distributions_with_one_plugin_name_are_told_by_the_check(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("one", "two"):
        plugin = "class Plugin: pass\n"
        distribution(site, name, plugins=f"same = {name}:Plugin", module=plugin)
    checked = run(site, DAEMON, "--check", home=tmp_path)
    assert checked.returncode == 0
    (line,) = checked.stderr.splitlines()
    assert line == (
        "aitorrentd: warning: several distributions provide a plugin 'same': one and two; "
        "uninstall all but one"
    )


@pytest.mark.allow_error_log
async def test_daemon_runs_neither_of_two_with_one_plugin_name(
    tmp_path: Path, daemon_factory: DaemonFactory
) -> None:
    site = tmp_path / "site"
    for name in ("one", "two"):
        plugin = "raise RuntimeError('imported')\n"
        distribution(site, name, plugins=f"same = {name}:Plugin", module=plugin)
    daemon = await daemon_factory(env={"PYTHONPATH": str(site)})
    rows = {row["name"]: row for row in (await daemon.call("plugin.list"))["plugins"]}
    assert rows["same"]["state"] == "broken"
    assert "one and two; uninstall all but one" in rows["same"]["detail"]
    assert rows["transport"]["state"] == "running"


@pytest.mark.allow_error_log
@pytest.mark.parametrize(
    "first", ["raise SystemExit(3)", "import asyncio; raise asyncio.CancelledError"]
)
async def test_plugin_that_ends_at_import_is_named_with_its_distribution(
    first: str, tmp_path: Path, daemon_factory: DaemonFactory
) -> None:
    site = tmp_path / "site"
    distribution(site, "their-dist", plugins="ends = their_dist:Plugin", module=first)
    checked = run(site, DAEMON, "--check", home=tmp_path)
    assert checked.returncode == 0
    (line,) = checked.stderr.splitlines()
    assert line.startswith("aitorrentd: warning: plugin ends of their-dist: cannot be imported: ")
    daemon = await daemon_factory(env={"PYTHONPATH": str(site)})
    logged = (daemon.directory / "stderr.log").read_text()
    assert "plugin ends of their-dist is broken: cannot be imported: " in logged
    found = (await daemon.call("node.doctor"))["checks"]
    assert any("ends (of their-dist) is broken" in check["text"] for check in found)


@pytest.mark.parametrize("case", DAMAGED)
def test_libraries_of_a_worker_are_imported_beside_a_damaged_distribution(case: str) -> None:
    pytest.importorskip("transformers")
    program = (
        "from aitorrentd.system.foreign import *\n"
        "disable_pydantic_plugins()\ntolerate_damaged_distributions()\n"
        "import torch, transformers.models.llama.modeling_llama"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(CASES / case), str(REPOSITORY)))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
