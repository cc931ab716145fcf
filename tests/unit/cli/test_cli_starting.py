"""A daemon that was started a moment ago: its socket is waited for, and no longer than that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.cli import starting
from aitorrentd.control.answers import NoAccess, NoDaemon
from aitorrentd.control.client import Client
from aitorrentd.errors import AitorrentError

TICKS = os.sysconf("SC_CLK_TCK")


class FakeTime:
    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at = round(self.at + seconds, 6)


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client.__new__(Client)  # only handed on
    yield made


def waited(
    until_s: float | None,
    client: Client,
    *,
    limit_s: float | None = None,
    starting_for_s: float = 0,
    error: type[AitorrentError] = NoDaemon,
) -> tuple[float, str]:
    """How long a daemon was waited for that listens `until_s` from now, and the error if any;
    a process of it is seen for `starting_for_s`."""
    time = FakeTime()
    began = time.at

    def connect() -> Client:
        if until_s is not None and round(time.at - began, 6) >= until_s:
            return client
        raise error("no daemon at /s; start one")

    try:
        found = starting.connect_when_up(
            connect,
            limit_s,
            seems_starting=lambda: time.at - began < starting_for_s,
            now=time.now,
            sleep=time.sleep,
        )
    except AitorrentError as e:
        return round(time.at - began, 1), e.message
    assert found is client
    return round(time.at - began, 1), ""


def test_daemon_that_listens_is_not_waited_for(client: Client) -> None:
    assert waited(0, client) == (0.0, "")


def test_daemon_that_was_just_started_is_waited_for(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert waited(0.3, client) == (0.3, "")
    assert capsys.readouterr().err == ""
    assert waited(1.2, client) == (1.2, "")
    assert waited(8.0, client, starting_for_s=9) == (8.0, "")
    assert capsys.readouterr().err == "[waiting for the daemon to listen]\n" * 2


def test_wait_without_a_sign_of_a_daemon_is_short(client: Client) -> None:
    took_s, text = waited(None, client)
    assert (took_s, text.endswith("; start one")) == (1.5, True)


def test_wait_ends_when_the_daemon_that_was_starting_ended(client: Client) -> None:
    took_s, text = waited(None, client, starting_for_s=3)
    assert (took_s, text.endswith("; start one")) == (3.0, True)


def test_daemon_that_never_listens_is_given_up(client: Client) -> None:
    took_s, text = waited(None, client, starting_for_s=99)
    assert took_s == 10.0
    assert "is not listening after 10 s; see its log" in text
    assert waited(None, client, starting_for_s=99, limit_s=2)[0] == 2.0


def test_other_refusals_are_told_at_once(client: Client) -> None:
    assert waited(None, client, error=NoAccess)[0] == 0.0


def process(proc: Path, number: int, words: list[bytes], began_s: float) -> None:
    folder = proc / str(number)
    folder.mkdir()
    (folder / "cmdline").write_bytes(b"\0".join(words) + b"\0")
    fields = b"S " + b"0 " * 18 + str(round(began_s * TICKS)).encode() + b" 0"
    (folder / "stat").write_bytes(b"%d (a) b) (x) %s" % (number, fields))


@pytest.mark.parametrize(
    ("words", "began_s", "is_it"),
    [
        ([b"/usr/bin/aitorrentd"], 995, True),
        ([b"/usr/bin/python3", b"/usr/bin/aitorrentd", b"--verbose"], 995, True),
        ([b"python3", b"-m", b"aitorrentd.main", b"--config", b"x"], 995, True),
        ([b"/usr/bin/aitorrentd"], 900, False),
        ([b"/usr/bin/aitorrentctl", b"wait"], 995, False),
        ([b"vim", b"/etc/default", b"aitorrentd"], 995, False),
        ([b""], 995, False),
    ],
)
def test_young_process_of_the_daemon_is_seen(
    tmp_path: Path, words: list[bytes], began_s: float, is_it: bool
) -> None:
    (tmp_path / "uptime").write_text("1000.25 3.0\n")
    (tmp_path / "self").mkdir()
    process(tmp_path, 7, words, began_s)
    assert starting.daemon_is_starting(tmp_path) is is_it


@pytest.mark.parametrize("uptime", [None, "", "x y"])
def test_machine_that_shows_no_processes_gives_no_sign(tmp_path: Path, uptime: Any) -> None:
    if uptime is not None:
        (tmp_path / "uptime").write_text(uptime)
    assert starting.daemon_is_starting(tmp_path) is False
    assert starting.daemon_is_starting(Path("/nowhere")) is False
