"""The doctor of a running daemon looks ahead: at what its next start would find."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.errors import InvalidParams
from aitorrentd.runtime.identity import encode
from tests.support.nodes import Daemon, DaemonFactory, short_dir, wait_for

QUIET = """\
log: {level: info}
plugins:
  transport: {listen: 127.0.0.1, port: 0}
  ollama: {enabled: false}
"""


async def finding(daemon: Daemon, name: str) -> tuple[str, str, str]:
    checks = (await daemon.call("node.doctor", {"plugin": "core"}))["checks"]
    found: dict[str, Any] = next(check for check in checks if check["name"] == name)
    return found["status"], found["text"], found["remedy"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("log: {level: loud}\n", "log.level: should be 'debug'"),
        ("log: {level: [\n", "aitorrent.yaml:2:1: not YAML"),
        ("plugins: {transport: {prot: 1}}\n", "transport.prot: unknown key; did you mean port?"),
        ("plugins: {transport: {psk: {file: /nowhere/psk}}}\n", "cannot read the secret in"),
    ],
)
async def test_files_that_the_next_start_would_refuse_are_found(
    text: str, said: str, daemon_factory: DaemonFactory
) -> None:
    daemon = await daemon_factory(QUIET)
    file = daemon.directory / "aitorrent.yaml"
    assert await finding(daemon, "config") == ("ok", str(file), "")
    file.write_text(text)
    status, told, remedy = await finding(daemon, "config")
    assert status == "fail"
    assert told.startswith("the next start or reload would reject these settings: ")
    assert said in told
    assert remedy == "correct them, then run: aitorrentctl config check"


async def test_files_that_changed_since_they_were_read_are_found(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory(QUIET)
    drop_in = daemon.directory / "aitorrent.yaml.d" / "10.yaml"
    drop_in.parent.mkdir()
    drop_in.write_text("log: {level: debug}\nplugins: {transport: {masking: true}}\n")
    status, told, remedy = await finding(daemon, "config")
    assert status == "warn"
    assert set(told.partition(": ")[2].split(", ")) == {"log.level", "plugins.transport.masking"}
    assert remedy == "aitorrentctl config reload"
    await daemon.call("node.reload")
    assert (await finding(daemon, "config"))[0] == "ok"


@pytest.mark.allow_error_log
async def test_key_that_the_next_start_would_not_find_is_told(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory(QUIET)
    file = daemon.state_dir / "identity.key"
    key = file.read_bytes()
    assert (await finding(daemon, "identity"))[0] == "ok"
    file.unlink()
    status, told, remedy = await finding(daemon, "identity")
    assert (status, told) == ("fail", f"{file} is gone; the key of this node is only in memory")
    assert remedy == f"restore {file} from a backup, or the node gets a new id at the next start"
    file.write_bytes(encode(bytes(32)))
    file.chmod(0o600)
    status, told, _ = await finding(daemon, "identity")
    assert status == "fail"
    assert "now has the key of" in told
    file.write_bytes(key)
    assert (await finding(daemon, "identity"))[0] == "ok"


async def test_log_that_is_lost_is_shown_by_status_and_doctor(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory(QUIET, stderr="/dev/full")

    async def told() -> list[str]:
        warnings = (await daemon.call("node.status"))["warnings"]
        return [w["text"] for w in warnings if w["code"] == "log_output"]

    (text,) = await wait_for(told)
    assert text.startswith("the log output cannot be written (No space left on device); ")
    assert text.endswith(" records are missing there; the last ones are in: aitorrentctl logs")
    status, _, remedy = await finding(daemon, "process")
    assert (status, remedy) == ("warn", "the last ones are in: aitorrentctl logs")


@contextmanager
def bound(file: Path, at: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", file, at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file")
async def test_mounted_file_that_was_replaced_outside_is_told(
    daemon_factory: DaemonFactory,
) -> None:
    outside = short_dir() / "10.yaml"
    outside.write_text("log: {level: info}\n")
    daemon = await daemon_factory(QUIET, ready=False)
    mounted = daemon.directory / "aitorrent.yaml.d" / "10.yaml"
    mounted.parent.mkdir()
    mounted.touch()
    with bound(outside, mounted):
        await daemon.ready()
        assert await daemon.call("node.reload")
        edited = outside.with_suffix(".new")
        edited.write_text("log: {level: debug}\n")
        edited.rename(outside)
        with pytest.raises(
            InvalidParams, match=rf"{mounted} is mounted as a single file and was replaced outside"
        ):
            await daemon.call("node.reload")
        status, told, remedy = await finding(daemon, "config")
        assert (status, remedy) == (
            "warn",
            "mount its directory instead, or restart the container",
        )
        assert told.startswith(f"{mounted} is mounted as a single file")
