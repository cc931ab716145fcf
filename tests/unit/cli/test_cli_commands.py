"""Every core command against a real node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from aitorrentd.cli import toolkit
from aitorrentd.cli.node import render_status
from aitorrentd.control.client import Client
from aitorrentd.system import unit
from tests.support.cli_nodes import Ctl, NodeThread
from tests.support.cli_runs import run_here


@pytest.fixture
def client(node: NodeThread) -> Iterator[Client]:
    with Client(node.socket) as client:
        yield client


def test_status_fits_on_a_screen_with_warnings_on_top(ctl: Ctl, client: Client) -> None:
    ran = ctl("status")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert lines[0].startswith("aitorrentd 0.1.0, running for ")
    assert "warning: count: counting is tiring" in lines
    assert f"node       {client.call('node.id')['id']}" in lines
    assert "plugins    1 running" in lines
    assert not any(line.startswith("models") for line in lines)  # no inference plugin here
    assert len(lines) <= 24
    assert ran.err == ""


def test_status_shows_errors_before_the_warnings_that_follow_from_them() -> None:
    warning = {"plugin": "shards", "severity": "warning", "text": "is blocked"}
    error = {"plugin": "transport", "severity": "error", "text": "the port is taken"}
    lines = render_status({"warnings": [warning, error]}).splitlines()
    assert lines[1:3] == ["error: transport: the port is taken", "warning: shards: is blocked"]


def test_status_shows_which_addresses_are_those_of_a_relay() -> None:
    circuit = "/ip4/203.0.113.1/tcp/8468/p2p/RELAY/p2p-circuit"
    addresses = ["/ip4/192.0.2.7/tcp/8468/p2p/ME", f"{circuit}/p2p/ME"]
    lines = render_status({"id": "ME", "addresses": addresses}).splitlines()
    at = lines.index("addresses  /ip4/192.0.2.7/tcp/8468")
    assert lines[at + 1].strip() == circuit


def test_status_tells_the_skipped_from_those_that_should_run() -> None:
    counts = {"running": 3, "skipped": 1, "total": 5, "disabled": 1}
    text = "plugins    3 running, 1 skipped, 1 disabled"
    assert text in render_status({"plugins": counts}).splitlines()
    counts = {"running": 3, "skipped": 1, "total": 8, "disabled": 2}
    text = "plugins    3 running, 2 not running, 1 skipped, 2 disabled"
    assert text in render_status({"plugins": counts}).splitlines()


def test_status_names_each_model_once_in_its_best_state() -> None:
    models = {
        "models": [{"name": "demo"}, {"name": "demo"}],
        "pending": [
            {"name": "demo", "state": "loading"},
            {"name": "b\x1big", "state": "incomplete"},
        ],
    }
    lines = render_status({}, models).splitlines()
    at = lines.index("models     demo ready")
    assert lines[at + 1] == "           b\ufffdig incomplete"
    assert "models     none" in render_status({}, {"models": []}).splitlines()
    many = render_status({}, {"models": [{"name": f"m{i}"} for i in range(9)]})
    assert "4 more; see aitorrentctl models" in many


def test_status_is_watched_until_ctrl_c(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(readable: Any, writable: Any, broken: Any, timeout_s: float) -> None:
        waits.append(timeout_s)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("aitorrentd.cli.node.select.select", wait)
    ran = ctl("status", "--watch", "--json")
    assert ran.code == 130
    first, _, rest = ran.out.partition("\n}\n")
    assert json.loads(first + "}")["name"] == "tester"
    assert [json.loads(line)["name"] for line in rest.splitlines()] == ["tester"] * 2
    assert waits == [2.0] * 3


@pytest.mark.parametrize(
    ("args", "method", "params"),
    [
        (["id"], "node.id", {}),
        (["version"], "node.version", {}),
        (["config", "show"], "config.show", {}),
        (["config", "show", "--origin"], "config.show", {"origin": True}),
        (["config", "get", "node.name"], "config.get", {"key": "node.name"}),
        (["config", "check"], "config.check", {}),
        (["rpc", "list"], "rpc.list", {}),
        (["rpc", "describe", "node."], "rpc.describe", {"prefix": "node."}),
        (["wait"], "node.wait", {}),
        (["wait", "--plugin", "count"], "node.wait", {"plugin": "count"}),
        (["call", "node.id"], "node.id", {}),
    ],
)
def test_json_is_the_answer_unchanged(
    ctl: Ctl, client: Client, args: list[str], method: str, params: dict[str, Any]
) -> None:
    ran = ctl(*args, "--json")
    assert ran.code == 0
    assert ran.json() == client.call(method, params)
    assert ran.err == ""


def test_id_and_version_show_theirs(ctl: Ctl, client: Client) -> None:
    told = client.call("node.id")
    told_lines = [line.split(maxsplit=1) for line in ctl("id").out.splitlines()]
    assert told_lines[:2] == [["id", told["id"]], ["name", "tester"]]
    assert told["public_key"] in ctl("id").out
    assert ctl("id", "--json").json()["name"] == "tester"
    shown = ctl("version").out.splitlines()
    assert shown[0] == "aitorrentctl  0.1.0"
    assert shown[1].split() == ["aitorrentd", "0.1.0"]


def test_wait_ends_when_the_plugin_is_ready(ctl: Ctl) -> None:
    assert ctl("wait", "--plugin", "count").out == "count is running\n"
    ran = ctl("wait", "--plugin", "count", "--state", "stopped", "--timeout", "0.1")
    assert ran.code == 75
    assert "is running, not stopped" in ran.err
    assert ctl("wait", "--plugin", "nonsense").code == 1


def test_wait_for_a_daemon_that_does_not_come_exits_with_75(ctl: Ctl, tmp_path: Path) -> None:
    ran = ctl("wait", "--socket", str(tmp_path / "absent"), "--timeout", "0.1")
    assert ran.code == 75
    assert ran.err.startswith("Error: not ready in time: no daemon at")


def test_drain_of_an_idle_node_shows_no_progress(ctl: Ctl, client: Client) -> None:
    seen: list[Any] = []
    client.call("node.drain", {"timeout_s": 1.0}, progress=seen.append)
    assert seen == []
    assert ctl("drain").out.startswith("drained: no work is running")
    assert ctl("drain", "--undo").out == "taking new work again\n"


def test_plugins_are_listed_shown_and_switched(ctl: Ctl, client: Client) -> None:
    header, row = ctl("plugin", "list").out.splitlines()
    assert header.split()[:2] == ["NAME", "STATE"]
    assert row.split()[:2] == ["count", "running"]
    assert "methods     count.up" in ctl("plugin", "info", "count").out
    assert ctl("plugin", "restart", "count").out.startswith("count is running")
    assert ctl("plugin", "disable", "count").out.startswith("count is disabled")
    assert client.call("plugin.info", {"name": "count"})["state"] == "disabled"
    ran = ctl("call", "count.up")
    assert ran.code == 1
    assert "count" in ran.err
    assert ctl("plugin", "enable", "count").out.startswith("count is running")
    assert ctl("plugin", "info", "nonsense").code == 1


@pytest.mark.allow_error_log
def test_a_plugin_that_does_not_run_is_an_error_for_scripts(tmp_path: Path) -> None:
    with NodeThread(tmp_path, {"count": {"lame": True}}) as node:
        for command in ("restart", "enable"):
            ran = run_here("plugin", command, "count", socket=node.socket)
            assert (ran.code, ran.err) == (1, "")
            assert "it cannot count" in ran.out
        ran = run_here("--json", "plugin", "enable", "count", socket=node.socket)
        assert (ran.code, ran.json()["state"]) == (1, "failed")
        ran = run_here("plugin", "disable", "count", socket=node.socket)
        assert (ran.code, ran.out) == (0, "count is disabled\n")


def test_settings_are_shown_read_and_written(ctl: Ctl, node: NodeThread) -> None:
    shown = ctl("config", "show", "--origin").out
    assert shown.splitlines()[0].split() == ["KEY", "VALUE", "FROM"]
    (line,) = [line for line in shown.splitlines() if line.startswith("node.name ")]
    assert line.split() == ["node.name", '"tester"', f"{node.file}:4"]
    assert ctl("config", "get", "node.name").out == "tester\n"
    assert ctl("config", "get", "node.nonsense").code == 1
    ran = ctl("config", "set", "plugins.count.port", "7")
    assert ran.code == 0
    assert "plugins.count.port written to" in ran.out
    assert "applied; plugin count was restarted for it: plugins.count.port\n" in ran.out
    assert "applied: log.level\n" in ctl("config", "set", "log.level", "warning").out
    drop_in = Path(f"{node.file}.d") / "90-set.yaml"
    assert yaml.safe_load(drop_in.read_text())["plugins"]["count"]["port"] == 7
    assert ctl("config", "get", "plugins.count.port").out == "7\n"
    # a number is text where the setting takes nothing else
    assert ctl("config", "set", "node.name", "1234").code == 0
    assert ctl("config", "get", "node.name").out == "1234\n"
    assert yaml.safe_load(drop_in.read_text())["node"]["name"] == "1234"
    assert ctl("config", "set", "node.name", "tester").code == 0
    assert ctl("config", "set", "plugins.count.port", "021").code == 0
    assert ctl("config", "get", "plugins.count.port").out == "021\n"


def test_restart_that_a_setting_needs_is_told_as_the_daemon_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NodeThread(tmp_path) as node:
        ctl = partial(run_here, socket=node.socket)
        said = ctl("config", "set", "node.network", "other").out.splitlines()[1]
        assert said == ("takes effect after a restart (restart the daemon): node.network")
        (tmp_path / unit.DAEMON).touch()
        active = CompletedProcess([], 0, "ActiveState=active\n", "")
        systemd = unit.Systemd(tmp_path, (tmp_path,), str(node.socket), lambda *_, **__: active)
        monkeypatch.setattr(unit, "SYSTEM", systemd)
        said = ctl("config", "set", "node.network", "third").out.splitlines()[1]
        assert said == "takes effect after a restart (systemctl restart aitorrentd): node.network"


@pytest.mark.allow_error_log
def test_plugin_that_a_setting_brought_down_is_told(
    tmp_path: Path,
) -> None:
    with NodeThread(tmp_path) as node:
        ctl = partial(run_here, socket=node.socket)
        held, down = ctl("config", "set", "plugins.count.lame", "true").out.splitlines()[1:]
        assert held == "applied; plugin count was restarted for it: plugins.count.lame"
        assert down.startswith("but plugin count is failed: it cannot count; next attempt in ")
        drop_in = Path(f"{node.file}.d") / "90-set.yaml"
        drop_in.write_text("plugins: {count: {lame: true, port: 1}}")
        assert "\nbut plugin count is failed: it cannot count" in ctl("config", "reload").out
        drop_in.unlink()
        assert "but" not in ctl("config", "reload").out


def test_settings_of_plugins_are_looked_for_among_all_there_are(ctl: Ctl) -> None:
    assert ctl("config", "get", "plugins.count.lame").out == "false\n"
    assert ctl("config", "get", "plugins.count.prot").err == (
        "Error: plugins.count.prot is not set in plugins.count; known keys: enabled, lame, port\n"
    )
    assert (
        "no plugin 'coun' is installed; did you mean count?"
        in ctl("config", "get", "plugins.coun.port").err
    )


def test_files_that_were_edited_are_read_again_on_request(ctl: Ctl, node: NodeThread) -> None:
    assert ctl("config", "reload").out == "nothing changed\n"
    drop_in = Path(f"{node.file}.d") / "95-mine.yaml"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("log: {level: error}\n")
    assert ctl("config", "reload").out == "applied: log.level\n"
    drop_in.write_text("log: {level: loud}\n")
    ran = ctl("config", "reload")
    assert (ran.code, "95-mine.yaml" in ran.err) == (78, True)
    drop_in.write_text("log: {level: loud}\nplugins: {count: {prot: 1}}\n")
    ran = ctl("config", "reload", "--json")
    assert ran.code == 78
    assert [
        line.partition(":")[0] for line in json.loads(ran.err)["error"]["data"]["problems"]
    ] == [
        "log.level",
        "plugins.count.prot",
    ]
    drop_in.unlink()
    assert ctl("config", "reload").code == 0


def test_a_setting_that_is_wrong_exits_with_78(ctl: Ctl) -> None:
    ran = ctl("config", "set", "node.nam", "x")
    assert ran.code == 78
    assert ran.err == "Error: node.nam: unknown key; did you mean name?\n"  # and is in no file
    ran = ctl("config", "set", "plugins.count.port", "x")
    assert ran.err == "Error: plugins.count.port: should be a whole number, not text\n"


def test_configuration_files_are_checked_without_a_daemon(
    ctl: Ctl, tmp_path: Path, node: NodeThread
) -> None:
    assert ctl("config", "check").out.startswith("no problems: ")
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nnode: {nam: x}\n")
    ran = ctl("config", "check", str(file))
    assert ran.code == 78
    assert "node.nam: unknown key; did you mean name?" in ran.out
    ran = ctl("config", "check", str(file), "--json")
    assert ran.code == 78
    assert len(ran.json()["problems"]) == 1
    assert ran.json()["files"] == [str(file)]
    file.write_text("version: 1\nnode: {nam: x}\nplugins: {transport: {prot: 1}}\n")
    assert ctl("config", "check", str(file)).out.splitlines() == [
        f"node.nam: unknown key; did you mean name? (in {file}:2)",
        f"plugins.transport.prot: unknown key; did you mean port? (in {file}:3)",
    ]
    file.write_text("version: 1\n")
    assert ctl("config", "check", str(file)).code == 0


def test_running_daemon_tells_all_mistakes_in_its_files(ctl: Ctl, tmp_path: Path) -> None:
    with NodeThread(tmp_path) as node:
        good = node.file.read_text()
        node.file.write_text(good.replace("plugins: {}", "plugins: {count: {prot: 1}}\nnod: {}"))
        ran = ctl("config", "check", "--socket", str(node.socket))
        node.file.write_text(good)
    assert ran.code == 78
    assert ran.out.splitlines() == [
        f"nod: unknown key; did you mean node? (in {node.file}:7)",
        f"plugins.count.prot: unknown key; did you mean port? (in {node.file}:6)",
    ]


def test_logs_are_shown_with_level_and_plugin(ctl: Ctl) -> None:
    ran = ctl("logs", "--plugin", "count", "--level", "warning")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].endswith("warning count: counting starts")
    assert lines[1] == "    with a second line"
    items = [json.loads(line) for line in ctl("logs", "-n", "2", "--json").out.splitlines()]
    assert len(items) == 2
    assert set(items[0]) >= {"at", "level", "logger", "text"}
    assert ctl("logs", "--level", "loud").code == 2


def test_events_are_followed_until_the_reader_leaves(
    ctl: Ctl, node: NodeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def leave_after_two(text: str = "", *, end: str = "\n") -> None:
        shown.append(text)
        if len(shown) == 2:
            raise BrokenPipeError

    original = Client.stream

    def stream(self: Client, *args: Any, **options: Any) -> Any:
        found = original(self, *args, **options)
        # The subscription exists once the daemon has answered something sent after it.
        self.call("rpc.ping")
        with Client(node.socket) as other:
            other.call("plugin.restart", {"name": "count"})
        return found

    monkeypatch.setattr(Client, "stream", stream)
    monkeypatch.setattr(toolkit, "echo", leave_after_two)
    ran = ctl("events", "plugin.changed")
    assert ran.code == 0
    assert ran.err == ""
    assert "plugin.changed plugin=count state=" in shown[0]


def test_methods_are_listed_and_described(ctl: Ctl) -> None:
    listed = ctl("rpc", "list", "node.").out
    assert listed.splitlines()[0].split() == ["METHOD", "ROLE", "STREAM", "FROM", "SUMMARY"]
    assert "node.events" in listed
    assert "rpc.ping" not in listed
    described = ctl("rpc", "describe", "node.wait").out
    assert "role read, from core, since 0.1.0" in described
    assert "timeout_s" in described
    assert ctl("rpc", "describe", "nonsense").code == 1


def test_any_method_can_be_called(ctl: Ctl) -> None:
    assert ctl("call", "rpc.ping").json() == {"pong": True}
    assert ctl("call", "node.wait", "plugin=count", "timeout_s=5").json()["state"] == "running"
    items = [json.loads(line) for line in ctl("call", "count.up").out.splitlines()]
    assert items == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert ctl("call", "no.such").code == 1
    assert "should be" in ctl("call", "node.wait", "timeout_s=-1").err

    given = '{"key": "node.name"}'
    assert ctl("call", "config.get", "--stdin", stdin=given).json()["value"] == "tester"
    assert ctl("call", "config.get", "--stdin", stdin="[]").code == 2
    assert ctl("call", "config.get", "--stdin", stdin="{").code == 2


def test_a_call_that_takes_too_long_exits_with_75(ctl: Ctl) -> None:
    ran = ctl("call", "count.on", "--timeout", "0.1")
    assert ran.code == 75
    assert ran.err == "Error: the daemon did not answer in time\n"


def test_the_doctor_looks_at_a_running_daemon_and_its_plugins(ctl: Ctl) -> None:
    ran = ctl("doctor")
    assert "  control-socket: " in ran.out
    assert "no daemon answers" not in ran.out
    assert ran.out.splitlines()[-1].endswith("with a warning")
    checks = ctl("doctor", "--json").json()["checks"]
    assert {"name", "plugin", "summary", "status", "text", "remedy"} <= set(checks[0])
    ran = ctl("doctor", "--plugin", "nonsense")
    assert (ran.code, ran.err) == (
        1,
        "Error: no plugin 'nonsense' is installed; `aitorrentctl plugin list` shows all\n",
    )


def test_the_doctor_works_without_a_daemon(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "node": {"state_dir": str(tmp_path / "state")},
                "plugins": {"transport": {"port": 0}},
            }
        )
    )
    absent = str(tmp_path / "absent.sock")
    ran = ctl("doctor", "--socket", absent, "--config", str(file))
    assert ran.code == 0
    assert "warn  control-socket: no daemon answers at" in ran.out
    assert "      -> start one: aitorrentd\n" in ran.out
    file.write_text("version: 1\nnode: {nam: x}\n")
    ran = ctl("doctor", "--socket", absent, "--config", str(file))
    assert ran.code == 1
    assert "fail  config: " in ran.out


def test_commands_at_the_prompt_are_those_of_the_command_line(ctl: Ctl) -> None:
    lines = [
        "call rpc.ping",
        "# a comment",
        "",
        "nonsense",
        "aitorrentctl call rpc.ping --json",
        'call config.get "key=node.name"',
        'unbalanced "',
        "shell",
        "help call",
        "quit",
        "call never.reached",
    ]
    ran = ctl("shell", stdin="\n".join(lines))
    assert ran.code == 0
    assert ran.out.count('"pong": true') == 2
    assert '"value": "tester"' in ran.out
    assert "Usage: aitorrentctl call" in ran.out
    assert "Error: no such command: nonsense" in ran.err
    assert "cannot parse that: No closing quotation" in ran.err
    assert "already in the shell" in ran.err
    assert "never.reached" not in ran.out + ran.err
    assert ctl("shell", stdin="id\n").code == 0
    assert ctl("shell", stdin="id\nnonsense\n").code == 2
    assert ctl("shell", stdin="nonsense\nid\nexit\n").code == 0
