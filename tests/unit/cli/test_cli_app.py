"""The command tree: global options, plugin commands, errors and exit codes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from aitorrentd.api.plugin import CallContext, Method, NoParams, Role
from aitorrentd.cli import app, toolkit
from aitorrentd.cli.main import main
from aitorrentd.cli.plugin_commands import PluginCommands
from aitorrentd.cli.toolkit import CommandFailed, Options
from aitorrentd.errors import (
    Busy,
    ConfigError,
    Conflict,
    Denied,
    InvalidParams,
    TimedOut,
    Unavailable,
)
from aitorrentd.exit_codes import ExitCode
from aitorrentd.system import distributions
from aitorrentd.system.distributions import Point, Scan
from tests.support.control_server import ServerThread


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("AITORRENT_SOCKET", str(tmp_path / "absent.sock"))
    monkeypatch.setenv("COLUMNS", "80")
    yield


Install = Callable[..., Callable[[list[str]], int]]


@pytest.fixture
def plugins() -> Iterator[Install]:
    """Pretends that these modules are installed as plugin commands; returns a `main` for them."""
    pretended = []

    def install(**modules: Any) -> Callable[[list[str]], int]:
        points = []
        for name, module in modules.items():
            value = f"fake_{name}_cli"
            points.append(Point(distributions.COMMANDS, name, value, f"fake-{name}", "1"))
            if module is not None:
                sys.modules[value] = module
                pretended.append(value)
        return partial(
            main, plugins=PluginCommands(app.RESERVED, scan=lambda *groups: Scan(points))
        )

    yield install
    for value in pretended:
        del sys.modules[value]


def module(commands: Any, register: Any) -> ModuleType:
    found = ModuleType("fake")
    found.COMMANDS = commands  # type: ignore[attr-defined]
    found.register = register  # type: ignore[attr-defined]
    return found


def greeter() -> ModuleType:
    def register(app: typer.Typer) -> None:
        def greet(name: str) -> None:
            toolkit.echo(f"hello {name} {toolkit.options.json}")

        app.command("greet")(greet)

    return module({"greet": "Say hello."}, register)


@pytest.mark.parametrize(
    ("args", "options", "rest"),
    [
        (["status", "--json"], Options(json=True), ["status"]),
        (["--socket", "/a", "id"], Options(socket="/a"), ["id"]),
        (["id", "--socket=/a", "--timeout=2.5"], Options(socket="/a", timeout=2.5), ["id"]),
        (["wait", "--timeout", "3s"], Options(timeout=3.0), ["wait"]),
        (["x", "--no-color", "--", "--json"], Options(color=False), ["x", "--", "--json"]),
        (["call", "a.b", "x=--json"], Options(), ["call", "a.b", "x=--json"]),
    ],
)
def test_global_options_may_stand_anywhere(
    args: list[str], options: Options, rest: list[str]
) -> None:
    assert app.split_globals(args, Options()) == (options, rest)


@pytest.mark.parametrize(
    "args",
    [["--socket"], ["status", "--timeout"], ["--socket="], ["--timeout", "x"], ["--timeout", "0"]],
)
def test_global_options_need_a_sensible_value(args: list[str]) -> None:
    with pytest.raises(CommandFailed, match="needs a value|takes seconds"):
        app.split_globals(args, Options())


def test_the_version_is_told_without_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--version"], ["-V"], ["--no-color", "--version"]):
        assert main(args) == ExitCode.OK
        assert capsys.readouterr().out.startswith("aitorrentctl 0.")


@pytest.mark.parametrize(
    "words", [[], ["status"], ["plugin"], ["plugin", "list"], ["rpc", "describe"], ["greet"]]
)
def test_h_is_help_everywhere(
    capsys: pytest.CaptureFixture[str], plugins: Install, words: list[str]
) -> None:
    main = plugins(hello=greeter())
    assert main([*words, "--help"]) == ExitCode.OK
    long = capsys.readouterr()
    assert main([*words, "-h"]) == ExitCode.OK
    assert capsys.readouterr() == long
    assert long.out.startswith(f"Usage: {' '.join(['aitorrentctl', *words])} ")
    assert "-h" in long.out.split("Options", 1)[1]


def test_a_plugin_adds_commands(capsys: pytest.CaptureFixture[str], plugins: Install) -> None:
    main = plugins(hello=greeter())
    assert main(["greet", "you", "--json"]) == ExitCode.OK
    assert capsys.readouterr().out == "hello you True\n"
    assert main(["--help"]) == ExitCode.OK
    assert "greet      Say hello." in capsys.readouterr().out


def _explode(app: typer.Typer) -> None:
    raise RuntimeError("register broke")


@pytest.mark.parametrize(
    "broken",
    [
        None,
        module(["greet"], lambda app: None),
        module({"x": "X."}, "not a function"),
        ModuleType("without_commands"),
    ],
)
def test_a_broken_plugin_costs_one_line_and_nobody_else_anything(
    capsys: pytest.CaptureFixture[str], plugins: Install, broken: Any
) -> None:
    main = plugins(broken=broken, hello=greeter())
    assert main(["greet", "you"]) == ExitCode.OK
    assert capsys.readouterr() == ("hello you False\n", "")
    assert main(["--help"]) == ExitCode.OK
    told = capsys.readouterr()
    assert "  greet      Say hello.\n" in told.out
    (line,) = told.err.splitlines()
    assert line.startswith("warning: the commands of plugin broken of fake-broken are unavailable")


def test_a_plugin_whose_register_fails_is_said_to_be_broken(
    capsys: pytest.CaptureFixture[str], plugins: Install
) -> None:
    main = plugins(bad=module({"bad": "Bad."}, _explode))
    assert main(["bad"]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert "RuntimeError: register broke" in told
    assert "Error: no such command: bad" in told


def test_core_commands_look_at_no_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    def scan(*groups: str) -> Scan:
        raise AssertionError("entry points were scanned")

    for args in (["status"], ["plugin", "list"], ["plugin", "--help"], ["call", "x.y"]):
        main(args, plugins=PluginCommands(app.RESERVED, scan=scan))
    assert "AssertionError" not in capsys.readouterr().err


def test_a_plugin_cannot_replace_a_core_command(
    capsys: pytest.CaptureFixture[str], plugins: Install
) -> None:
    main = plugins(evil=module({"status": "Mine.", "mine": "Mine."}, lambda app: None))
    assert main(["--help"]) == ExitCode.OK
    told = capsys.readouterr()
    assert "Show the node's status." in told.out
    assert "command 'status' of plugin evil of fake-evil is ignored" in told.err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["statsu"], "Error: no such command: statsu; did you mean status?"),
        (["qqq"], "Error: no such command: qqq; see aitorrentctl --help"),
        (["peer"], "Error: no such command: peer; see aitorrentctl --help"),
        (["log"], "Error: no such command: log; did you mean logs?"),
        (
            ["stop-daemon"],
            "Error: no such command: stop-daemon; stop it: Ctrl-C where it runs, kill PID",
        ),
        (["plugin", "lsit"], "Did you mean 'list'?"),
        (["plugin", "uninstall"], "No such command 'uninstall'. Did you mean 'remove'?"),
        (["plugin", "unistall"], "No such command 'unistall'.\n"),
        (["status", "--bogus"], "No such option: --bogus"),
        (["call"], "Missing argument"),
        (["plugin", "info"], "Missing argument"),
        (["logs", "-n", "x"], "Invalid value"),
        (["--bogus"], "No such option: --bogus"),
        (["--socket"], "Error: option --socket needs a value"),
        (["call", "a.b", "novalue"], "'novalue' is not of the form key=value"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
    plugins: Install,
    args: list[str],
    text: str,
) -> None:
    main = plugins()
    assert main(args) == ExitCode.USAGE
    told = capsys.readouterr()
    assert text in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["ban"], "Error: no such command: ban; did you mean peers ban?"),
        (["peers", "list"], "No such command 'list'. Did you mean 'aitorrentctl peers'?"),
        (["peers", "block"], "No such command 'block'. Did you mean 'ban'?"),
        (
            ["wait", "demo"],
            "Unexpected argument: demo. Did you mean 'wait --plugin demo' or 'wait --model demo'?",
        ),
        (
            ["broadcast", "Restarting", "in", "five"],
            'Unexpected argument: in five. Did you mean broadcast "Restarting in five"?',
        ),
    ],
)
def test_wrong_usage_says_what_was_probably_meant(
    capsys: pytest.CaptureFixture[str], args: list[str], text: str
) -> None:
    assert main(args) == ExitCode.USAGE
    assert text in capsys.readouterr().err


def test_no_daemon_exits_with_69_and_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 69
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("Error: no daemon at ")
    assert told.err.endswith(
        "; start one: aitorrentd, or name its socket: --socket PATH or AITORRENT_SOCKET\n"
    )


def error_of(capsys: pytest.CaptureFixture[str]) -> Any:
    """The object that a failed command wrote with --json, and nothing but it."""
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return json.loads(told.err)["error"]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (
            ["status", "--json", "--bogus"],
            {"message": "No such option: --bogus", "hint": "see aitorrentctl status --help"},
        ),
        (
            ["--json", "plugin", "lsit"],
            {
                "message": "No such command 'lsit'. Did you mean 'list'?",
                "hint": "see aitorrentctl plugin --help",
            },
        ),
        (["plugin", "--json"], {"message": "no command given", "hint": "see aitorrentctl plu"}),
        (["--json"], {"message": "no command given", "hint": "see aitorrentctl --help"}),
        (["statsu", "--json"], {"message": "no such command: statsu; did you mean status?"}),
        (["--timeout", "x", "--json"], {"message": "--timeout takes seconds above 0, got 'x'"}),
        (
            ["call", "a.b", "k", "--json"],
            {"message": "Invalid value: 'k' is not of", "hint": "see aitorrentctl call --help"},
        ),
    ],
)
def test_wrong_usage_is_json_for_who_asked_for_it(
    capsys: pytest.CaptureFixture[str],
    plugins: Install,
    args: list[str],
    error: dict[str, str],
) -> None:
    main = plugins()
    assert main(args) == ExitCode.USAGE
    told = error_of(capsys)
    assert told.pop("code") == "usage"
    assert told.keys() == error.keys()
    assert all(told[key].startswith(text) for key, text in error.items())


def test_json_after_two_dashes_is_a_word_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--timeout", "x", "status", "--", "--json"]) == ExitCode.USAGE
    assert capsys.readouterr().err == "Error: --timeout takes seconds above 0, got 'x'\n"


def test_errors_of_the_daemon_are_json_with_their_code_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--json"]) == ExitCode.NO_DAEMON
    assert error_of(capsys)["code"] == "unavailable"
    wrong = ConfigError("bad\nsétting", problems=("log: bad",))
    with ServerThread(tmp_path / "c.sock", Method("node.id", failing(wrong), "Id.")) as server:
        assert main(["--socket", str(server.path), "id", "--json"]) == ExitCode.CONFIG
    assert error_of(capsys) == {
        "code": "invalid_params",
        "message": "bad\nsétting",
        "data": {"kind": "config", "problems": ["log: bad"]},
    }


def test_what_a_command_gives_up_for_is_json(
    capsys: pytest.CaptureFixture[str], plugins: Install
) -> None:
    def register(app: typer.Typer) -> None:
        app.command("late")(lambda: toolkit.fail("too late", ExitCode.TRY_LATER))

    main = plugins(late=module({"late": "Be late."}, register))
    assert main(["late", "--json"]) == ExitCode.TRY_LATER
    assert error_of(capsys) == {"code": "try_later", "message": "too late"}


def failing(error: Exception) -> Callable[[CallContext, NoParams], dict[str, Any]]:
    def handler(call: CallContext, params: NoParams) -> dict[str, Any]:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Conflict("it is there"), 1),
        (Unavailable("plugin shards is not running"), 1),
        (Busy("a limit"), 75),
        (TimedOut("too late"), 75),
        (Denied("not you"), 77),
        (ConfigError("bad setting"), 78),
        (InvalidParams("the port is missing"), 2),
    ],
)
def test_errors_of_the_daemon_have_their_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    with ServerThread(tmp_path / "c.sock", Method("node.id", failing(error), "Id.")) as server:
        assert main(["--socket", str(server.path), "id"]) == code
    told = capsys.readouterr()
    text = str(error)
    assert told.err == f"Error: {text}\n"


def test_a_bug_in_the_daemon_names_its_error_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bug = Method("node.id", failing(ZeroDivisionError("secret")), "Id.", role=Role.READ)
    with ServerThread(tmp_path / "c.sock", bug) as server:
        assert main(["--socket", str(server.path), "id"]) == 1
    told = capsys.readouterr().err
    assert "under error id" in told
    assert "secret" not in told


TOOL, DAEMON = "aitorrentd.cli.main", "aitorrentd.main"
FULL = "cannot write the output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        *((f"{TOOL} {words}", 1, f"Error: {FULL}") for words in ("--version", "--help", "id -h")),
        (f"{TOOL} config check", 1, f"Error: {FULL}"),
        *((f"{DAEMON} {words}", 69, f"aitorrentd: {FULL}") for words in ("--version", "--help")),
        (f"{DAEMON} --check", 69, f"aitorrentd: {FULL}"),
    ],
)
def test_a_full_disk_is_told_in_a_line(
    command: str, code: int, said: str, buffered: bool, tmp_path: Path
) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={"HOME": str(tmp_path)} | ({} if buffered else {"PYTHONUNBUFFERED": "1"}),
        )
    assert (ran.returncode, ran.stderr) == (code, said)


def test_a_reader_that_left_is_no_error_of_the_daemon() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for words in ("--version", "--help", "--check"):
        ran = subprocess.run(
            [sys.executable, "-m", DAEMON, words],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
    os.close(writer)


@pytest.mark.parametrize("module", [TOOL, DAEMON])
@pytest.mark.parametrize("words", ["--version", "--help"])
def test_version_and_help_need_no_home_and_no_room(module: str, words: str) -> None:
    """No file can grow, as on a full disk, and nobody can write in the home directory."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    ran = subprocess.run(
        [sys.executable, "-m", module, words],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=no_room,
        env=dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"), "/proc"),
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "aitorrent" in ran.stdout


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError()])
def test_interrupts_and_closed_pipes_end_quietly(
    capsys: pytest.CaptureFixture[str], plugins: Install, error: BaseException
) -> None:
    def register(app: typer.Typer) -> None:
        def stop() -> None:
            raise error

        app.command("stop")(stop)

    main = plugins(stop=module({"stop": "Stop."}, register))
    code = main(["stop"])
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 0)
    assert capsys.readouterr().err == ""
