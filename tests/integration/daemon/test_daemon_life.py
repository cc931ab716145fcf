"""The daemon as a process: its start, its signals, its service manager, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.control.client import NoDaemon
from aitorrentd.errors import InvalidParams, Unavailable
from tests.support.nodes import (
    BUILT_IN_OFF,
    REPOSITORY,
    Daemon,
    DaemonFactory,
    short_dir,
    wait_for,
)
from tests.support.process_plugins import install

ONLY_ODD: dict[str, Any] = {"plugins": BUILT_IN_OFF}


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    return install(tmp_path / "third-party")


def alone(**odd_settings: object) -> dict[str, object]:
    return {**ONLY_ODD, "plugins": {**ONLY_ODD["plugins"], "odd": odd_settings}}


async def run_to_end(*args: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aitorrentd.main",
        *args,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_daemon_is_ready_quickly_small_and_serves_when_it_says_so(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory()
    status = await daemon.call("node.status")
    assert status["state"] == "running"
    assert status["pid"] == daemon.pid
    assert status["rss_bytes"] < 80 * 1024 * 1024
    assert status["control_socket"] == str(daemon.socket)
    lines = daemon.notify.lines()
    assert lines.count("READY=1") == 1
    assert any(line.startswith("STATUS=") and "plugins running" in line for line in lines)
    assert lines.index("READY=1") > lines.index("EXTEND_TIMEOUT_USEC=30000000")


async def test_sigterm_and_sigint_stop_in_order_with_exit_code_0(
    daemon_factory: DaemonFactory,
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        daemon = await daemon_factory(ONLY_ODD)
        daemon.signal(number)
        assert await daemon.ended() == 0
        assert daemon.notify.has("STOPPING=1")
        assert not daemon.socket.exists()


async def test_stop_over_the_control_socket_ends_the_process(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory(ONLY_ODD)
    assert await daemon.call("node.stop") == {}
    assert await daemon.ended() == 0
    with pytest.raises(NoDaemon, match="no daemon at"):
        await daemon.client()


async def test_signal_while_starting_stops_what_was_started(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    config = alone(way="slow_start", seconds=25.0)
    daemon = await daemon_factory(config, env=odd, ready=False)
    await wait_for(daemon.socket.exists, 30)
    assert (await daemon.call("node.status"))["state"] == "starting"
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended(15) == 0
    assert not daemon.notify.has("READY=1")


async def test_stop_over_the_control_socket_is_heard_while_starting(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    config = alone(way="slow_start", seconds=25.0)
    daemon = await daemon_factory(config, env=odd, ready=False)
    await wait_for(daemon.socket.exists, 30)
    await daemon.call("node.stop")
    assert await daemon.ended(15) == 0


async def test_second_signal_does_not_wait_for_a_plugin_that_hangs(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    daemon = await daemon_factory(alone(way="slow_stop", seconds=8.0), env=odd)
    daemon.signal(signal.SIGINT)
    await wait_for(lambda: "SIGINT: stopping" in daemon.log())
    daemon.signal(signal.SIGINT)
    assert await daemon.ended(6) == 128 + signal.SIGINT


@pytest.mark.allow_error_log  # of a ping that was under way when the hang began
async def test_watchdog_is_pinged_while_all_is_well_and_not_while_the_loop_hangs(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    env = {**odd, "WATCHDOG_USEC": "600000"}
    daemon = await daemon_factory(alone(seconds=3.0), env=env)
    await wait_for(lambda: daemon.notify.count("WATCHDOG=1") >= 3)
    block = asyncio.create_task(daemon.call("odd.block"))
    await asyncio.sleep(0.6)  # a period of the watchdog: pings sent before the hang have arrived
    before = daemon.notify.count("WATCHDOG=1")
    await asyncio.sleep(1.5)  # what does not happen has no event; the daemon's own clock counts
    assert daemon.notify.count("WATCHDOG=1") <= before + 1
    await block
    await wait_for(lambda: daemon.notify.count("WATCHDOG=1") >= before + 3)
    assert (await daemon.call("node.status"))["loop_lag_s"] >= 2.0


async def test_watchdog_of_another_process_is_left_alone(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory(ONLY_ODD, env={"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"})
    await asyncio.sleep(0.5)  # five times what a ping would take; none has no event
    assert daemon.notify.count("WATCHDOG=1") == 0


async def test_reload_applies_what_it_can_and_says_what_needs_a_restart(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    daemon = await daemon_factory(alone(seconds=1.0), env=odd)
    config = daemon.directory / "aitorrent.yaml"
    text = config.read_text()
    config.write_text(text.replace("seconds: 1.0", "seconds: 2.0") + "log: {level: debug}\n")
    daemon.signal(signal.SIGHUP)
    await wait_for(lambda: daemon.notify.count("READY=1") == 2)
    lines = daemon.notify.lines()
    assert lines.index("RELOADING=1") < len(lines) - lines[::-1].index("READY=1") - 1
    assert any(line.startswith("MONOTONIC_USEC=") for line in lines)
    assert (await daemon.call("odd.shown"))["seconds"] == 2.0
    config.write_text(text + "node: {network: other}\n")
    done = await daemon.call("node.reload")
    assert done["restart"] == ["node.network"]
    assert sorted(done["applied"]) == ["log.level", "plugins.odd.seconds"]


@pytest.mark.allow_error_log
async def test_reload_of_a_broken_file_changes_nothing(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory(ONLY_ODD)
    (daemon.directory / "aitorrent.yaml").write_text("log: {level: [}")
    daemon.signal(signal.SIGHUP)
    await wait_for(lambda: daemon.notify.count("READY=1") == 2)
    await wait_for(lambda: "the configuration was not reloaded" in daemon.log())
    assert (await daemon.call("config.get", {"key": "log.level"}))["value"] == "info"
    problems = (await daemon.call("config.check"))["problems"]
    assert len(problems) == 1
    assert "aitorrent.yaml:1:15" in problems[0]


@pytest.mark.allow_error_log
async def test_reload_with_a_plugins_table_that_does_not_fit_leaves_the_plugin_running(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    daemon = await daemon_factory(alone(seconds=1.0), env=odd)
    config = daemon.directory / "aitorrent.yaml"
    text = config.read_text()
    config.write_text(text.replace("seconds: 1.0", "secnds: 2.0"))
    with pytest.raises(InvalidParams, match=r"odd\.secnds: unknown key; did you mean seconds\?"):
        await daemon.call("node.reload")
    daemon.signal(signal.SIGHUP)
    await wait_for(lambda: daemon.notify.count("READY=1") == 2)
    told = "the configuration was not reloaded: plugins.odd.secnds: unknown key"
    await wait_for(lambda: told in daemon.log())
    assert (await daemon.call("plugin.info", {"name": "odd"}))["state"] == "running"
    assert (await daemon.call("odd.shown"))["seconds"] == 1.0
    config.write_text(text.replace("seconds: 1.0", "seconds: 3.0"))
    assert (await daemon.call("node.reload"))["applied"] == ["plugins.odd.seconds"]


async def test_second_daemon_on_the_same_state_is_refused_by_name(
    daemon_factory: DaemonFactory,
) -> None:
    first = await daemon_factory(ONLY_ODD)
    code, _, err = await run_to_end(
        "--state-dir",
        str(first.state_dir),
        env={"AITORRENT_CONFIG": str(first.directory / "aitorrent.yaml")},
    )
    assert code == 69
    assert err.splitlines()[-1].startswith(f"aitorrentd: another daemon (pid {first.pid}) uses the")
    assert "Traceback" not in err
    assert (await first.call("rpc.ping")) == {"pong": True}


async def test_socket_of_another_daemon_is_not_taken(daemon_factory: DaemonFactory) -> None:
    first = await daemon_factory(ONLY_ODD)
    text = f"control: {{socket: {first.socket}}}\n"
    second = await daemon_factory(text, ready=False)
    assert await second.ended() == 69
    assert "Traceback" not in second.log()
    assert str(first.socket) in second.log()
    assert (await first.call("rpc.ping")) == {"pong": True}


@pytest.mark.allow_error_log
async def test_failure_of_a_required_plugin_ends_the_daemon_with_70(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    config = {**alone(way="fail"), "required": ["odd"]}
    daemon = await daemon_factory(config, env=odd, ready=False)
    assert await daemon.ended() == 70
    assert "EADDRINUSE" in daemon.log().splitlines()[-1]
    assert not daemon.notify.has("READY=1")


@pytest.mark.allow_error_log
async def test_failure_of_another_plugin_is_a_warning_in_a_daemon_that_runs(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    daemon = await daemon_factory(alone(way="fail"), env=odd)
    warnings = (await daemon.call("node.status"))["warnings"]
    assert [w["code"] for w in warnings] == ["plugin_failed"]
    with pytest.raises(Unavailable, match="EADDRINUSE"):
        await daemon.call("odd.shown")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("log: {levle: info}", 78, "log.levle: unknown key; did you mean level?"),
        ("log: [}", 78, "aitorrent.yaml:1:7: not YAML"),
        ("version: 9", 78, "this program reads version 1"),
        (
            "plugins: {transport: {psk: {env: NOT_SET}}}",
            78,
            "environment variable NOT_SET is not set",
        ),
    ],
)
async def test_wrong_configuration_is_one_line_and_exit_code_78(
    text: str, code: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "aitorrent.yaml"
    file.write_text(text)
    state = tmp_path / "state"
    found, out, err = await run_to_end("--config", str(file), "--state-dir", str(state))
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert said in err
    assert not state.exists()


async def test_start_tells_the_mistakes_of_the_core_and_of_the_plugins_at_once(
    tmp_path: Path, odd: dict[str, str]
) -> None:
    file = tmp_path / "aitorrent.yaml"
    file.write_text("log: {levle: info}\nplugins: {odd: {secnds: 1}, inferense: {}}")
    state = tmp_path / "state"
    found, out, err = await run_to_end(
        "--config", str(file), "--state-dir", str(state), env={**odd, "PORT": "http"}
    )
    assert (found, out) == (78, "")
    assert err.splitlines() == [
        "aitorrentd: plugins.transport.port: 'http' is not a port (0 to 65535); correct or unset "
        "it (in environment variable PORT)",
        f"aitorrentd: log.levle: unknown key; did you mean level? (in {file}:1)",
        f"aitorrentd: plugins.odd.secnds: unknown key; did you mean seconds? (in {file}:2)",
        "aitorrentd: plugins.inferense: no such plugin is installed; "
        f"did you mean inference? (in {file}:2)",
    ]
    assert not state.exists()


async def test_command_line_errors_are_one_line_each(tmp_path: Path) -> None:
    for args, code in [
        (["--config", "/nowhere/a.yaml"], 78),
        (["--port", "99999"], 64),
        (["--colour"], 64),
        (["--state-dir", "/proc/nothing"], 78),
    ]:
        found, _, err = await run_to_end(*args, env={"HOME": str(tmp_path)})
        assert found == code, err
        assert err.startswith("aitorrentd: ")
        assert err.count("\n") == 1


async def test_check_validates_plugin_tables_without_starting(
    tmp_path: Path, odd: dict[str, str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("plugins: {odd: {secnds: 1}, inferense: {}}")
    state = str(tmp_path / "state")
    args = ("--check", "--config", str(file), "--state-dir", state)
    code, _, err = await run_to_end(*args, env=odd)
    assert code == 78
    assert "plugins.odd.secnds: unknown key; did you mean seconds?" in err
    assert "plugins.inferense: no such plugin is installed; did you mean inference?" in err
    file.write_text("plugins: {odd: {seconds: 1}}")
    code, out, _ = await run_to_end(*args, env=odd)
    assert (code, out) == (0, f"the configuration is valid: {file}\n")
    assert not Path(state).exists()


async def test_version_needs_no_configuration() -> None:
    code, out, _ = await run_to_end("--version", "--config", "/nowhere")
    assert code == 0
    assert out.startswith("aitorrentd 0.")


async def test_flags_of_the_first_version_reach_the_transport(tmp_path: Path) -> None:
    from aitorrentd.main import overrides, parser

    args = ["--port", "0", "--host", "127.0.0.1", "--bootstrap", "a:1", "b:2", "--masking"]
    args += ["--identity", "/k", "--state-dir", "/s", "--verbose", "--no-shell"]
    assert overrides(parser().parse_args(args)) == {
        "node": {"state_dir": "/s", "identity": "/k"},
        "log": {"level": "debug"},
        "plugins": {
            "transport": {
                "listen": "127.0.0.1",
                "port": 0,
                "bootstrap": ["a:1", "b:2"],
                "masking": True,
            }
        },
    }
    assert overrides(parser().parse_args([])) == {}


@pytest.mark.root
async def test_state_that_belongs_to_somebody_else_is_exit_code_77(tmp_path: Path) -> None:
    state = short_dir()
    # Imported first: the interpreter of a test machine may lie where others cannot read.
    code = (
        "import os, sys, aitorrentd.daemon.daemon, aitorrentd.main, uvloop; os.setgid(65534);"
        " os.setuid(65534); sys.exit(aitorrentd.main.main("
        f"['--state-dir', {str(state)!r}, '--config', '/dev/null']))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=REPOSITORY, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    state.rmdir()
    assert process.returncode == 77, err
    assert b"cannot write to" in err
    assert b"set node.state_dir" in err


async def test_socket_from_the_service_manager_is_served_and_left_in_place(
    daemon_factory: DaemonFactory,
) -> None:
    directory = short_dir()
    path = directory / "given.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as given:
        given.bind(str(path))
        given.listen()
        # sd_listen_fds passes descriptors from 3 on and names the process that they are for, so
        # a shell puts ours there and becomes the daemon.
        launcher = (
            "import os, sys\n"
            f"os.dup2({given.fileno()}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1',"
            " LISTEN_FDNAMES='control')\n"
            f"os.execv(sys.executable, [sys.executable, '-m', 'aitorrentd.main',"
            f" '--config', '{directory}/a.yaml', '--state-dir', '{directory}/state'])\n"
        )
        (directory / "a.yaml").write_text("plugins: {transport: {enabled: false}}\n")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            launcher,
            cwd=REPOSITORY,
            pass_fds=[given.fileno()],
            stderr=asyncio.subprocess.DEVNULL,
        )
    daemon = Daemon.__new__(Daemon)
    daemon.socket = path
    status = await daemon.call("node.status")
    assert status["control_socket"] == str(path)
    process.terminate()
    assert await process.wait() == 0
    assert path.exists()
    path.unlink()


@pytest.mark.allow_error_log
async def test_secrets_are_in_no_log_and_no_answer(
    daemon_factory: DaemonFactory, odd: dict[str, str]
) -> None:
    config = alone(psk={"env": "ODD_PSK"})
    env = {**odd, "ODD_PSK": "swordfish-swordfish"}
    daemon = await daemon_factory(config, env=env, args=["--log-level", "debug"])
    await wait_for(lambda: "my secret is •••" in daemon.log())
    async with await daemon.client() as client:
        answers = [
            str(await client.call("config.show", {"origin": True})),
            str(await client.call("config.get", {"key": "plugins.odd.psk"})),
            str(await client.call("plugin.info", {"name": "odd"})),
            str(await client.call("node.status")),
            str([item async for item in client.stream("node.logs")]),
        ]
    assert "••• (env ODD_PSK)" in answers[1]
    assert not any("swordfish" in text for text in [daemon.log(), *answers])
