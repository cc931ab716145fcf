"""A plugin of somebody else: its own distribution, built by pip, found and run by a daemon."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import InvalidParams, TimedOut, Unavailable
from tests.support.nodes import REPOSITORY, Daemon, DaemonFactory

EXAMPLE = REPOSITORY / "examples" / "aitorrent-hello"
PIP_S = 120.0


def pip(*arguments: str | Path) -> None:
    """Run pip of this interpreter, without any index."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example installed from its wheel."""
    room = tmp_path_factory.mktemp("hello")
    source = room / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", room / "dist", source)
    (wheel,) = (room / "dist").glob("aitorrent_hello-*-py3-none-any.whl")
    pip("install", "--no-index", "--no-deps", "--target", room / "site", wheel)
    return room / "site"


@pytest.fixture
def path(installed: Path) -> dict[str, str]:
    """The environment in which the example is installed."""
    return {"PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}


async def ctl(daemon: Daemon, env: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `aitorrentctl` in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aitorrentd.cli.main",
        "--socket",
        str(daemon.socket),
        *arguments,
        env={**os.environ, **env},
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def hello_row(reply: dict[str, Any]) -> dict[str, Any]:
    (row,) = [row for row in reply["plugins"] if row["name"] == "hello"]
    return dict(row)


async def test_daemon_finds_and_runs_what_pip_installed(
    daemon_factory: DaemonFactory, path: dict[str, str]
) -> None:
    daemon = await daemon_factory({"plugins": {"hello": {"greeting": "Ahoy"}}}, env=path)
    row = hello_row(await daemon.call("plugin.list"))
    assert {k: row[k] for k in ("state", "tier", "dist", "version", "provides", "wants")} == {
        "state": "running",
        "tier": "third-party",
        "dist": "aitorrent-hello",
        "version": "1.0.0",
        "provides": ["hello.v1"],
        "wants": ["transport.v1"],
    }
    assert await daemon.call("hello.greet", {"name": "Ada"}) == {"text": "Ahoy, Ada!"}
    with pytest.raises(InvalidParams, match="a name must have 1 to 64 printable characters"):
        await daemon.call("hello.greet", {"name": "A\nda"})
    assert await ctl(daemon, path, "hello", "Ada") == (0, "Ahoy, Ada!\n", "")
    code, out, _ = await ctl(daemon, path, "--json", "hello")
    assert (code, json.loads(out)) == (0, {"text": "Ahoy, world!"})
    _, out, _ = await ctl(daemon, path, "--help")
    assert "Print a greeting, or have a peer send one." in out


async def test_it_is_switched_off_and_on_while_the_daemon_runs(
    daemon_factory: DaemonFactory, path: dict[str, str]
) -> None:
    daemon = await daemon_factory(env=path)
    assert (await daemon.call("plugin.disable", {"name": "hello"}))["state"] == "disabled"
    with pytest.raises(Unavailable, match="plugin hello is disabled"):
        await daemon.call("hello.greet")
    assert (await daemon.call("plugin.enable", {"name": "hello"}))["state"] == "running"
    assert await daemon.call("hello.greet") == {"text": "Hello, world!"}


@pytest.mark.allow_error_log
async def test_wrong_settings_of_it_leave_the_daemon_up(
    daemon_factory: DaemonFactory, path: dict[str, str]
) -> None:
    daemon = await daemon_factory({"plugins": {"hello": {"greting": "Ahoy"}}}, env=path)
    row = hello_row(await daemon.call("plugin.list"))
    assert (row["state"], row["detail"]) == (
        "invalid",
        "plugins.hello.greting: unknown key; did you mean greeting?",
    )


async def test_two_nodes_greet_each_other_over_its_protocol(
    daemon_factory: DaemonFactory, path: dict[str, str]
) -> None:
    ahoy = await daemon_factory({"plugins": {"hello": {"greeting": "Ahoy"}}}, env=path)
    hello = await daemon_factory(env=path)
    there = await ahoy.call("node.id")
    here = (await hello.call("node.id"))["id"]
    async with await hello.client() as client:
        events = client.stream("node.events", {"topics": ["hello.greeted"]})
        first = asyncio.ensure_future(anext(aiter(events)))
        await hello.call("transport.connect", {"address": there["addresses"][0]})
        heard = await asyncio.wait_for(first, 20)
        assert heard["event"]["text"] == f"Ahoy, …{here[-8:]}!"
    reply = await hello.call("hello.greet", {"name": "Ada", "peer": there["id"]})
    assert reply == {"text": "Ahoy, Ada!"}
    await ahoy.call("plugin.disable", {"name": "hello"})
    with pytest.raises((Unavailable, TimedOut), match=r"."):
        await hello.call("hello.greet", {"name": "Ada", "peer": there["id"]})


async def test_daemon_without_it_does_not_know_it(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    names = {row["name"] for row in (await daemon.call("plugin.list"))["plugins"]}
    assert "transport" in names
    assert "hello" not in names


async def test_code_of_its_readme_works(path: dict[str, str]) -> None:
    blocks = (EXAMPLE / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = [block.partition("```")[0] for block in blocks]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import asyncio\n{code}\nasyncio.run(test_greeting())",
        env={**os.environ, **path},
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
