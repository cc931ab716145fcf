from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import Options, Progress
from aitorrentd.system import paths
from tests.support.cli_runs import Terminal, terminal


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (5 * 2**50, "5.0 PiB")],
)
def test_bytes_have_binary_units(n: int, text: str) -> None:
    assert toolkit.bytes_text(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00042, "0.42 ms"),
        (0.035, "35 ms"),
        (1.25, "1.2 s"),
        (125, "2 min 5 s"),
        (7500, "2 h 5 min"),
        (3 * 86_400 + 4 * 3600 + 59, "3 d 4 h"),
        (-2, "-2.0 s"),
    ],
)
def test_durations_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert toolkit.duration_text(seconds) == text


def test_address_through_a_relay_is_short_enough_for_a_table() -> None:
    relay, peer = "12D3KooW" + 36 * "a" + "relay123", "12D3KooW" + 36 * "b" + "peer4567"
    place = "/ip4/203.0.113.1/tcp/8468"
    shown = toolkit.short_ids(f"{place}/p2p/{relay}/p2p-circuit/p2p/{peer}")
    assert shown == f"{place}/p2p/…relay123/p2p-circuit/p2p/…peer4567"
    assert toolkit.short_ids(place) == place


def test_a_table_aligns_text_left_and_numbers_right() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "n": 5, "ok": True, "tags": ["x", "y"], "s": 0.002},
        {"name": "longer", "n": 1234, "ok": False, "tags": [], "s": None},
    ]
    columns: list[toolkit.Column] = [
        ("name", "NAME"),
        ("n", "N"),
        ("ok", "OK"),
        ("tags", "TAGS"),
        ("s", "TOOK", toolkit.ms_text),
    ]
    assert toolkit.table(rows, columns).splitlines() == [
        "NAME       N  OK   TAGS     TOOK",
        "a          5  yes  x y   2.00 ms",
        "longer  1234  no   -           -",
    ]


def test_a_table_without_rows_shows_its_headings() -> None:
    assert toolkit.table([], [("a", "A"), ("b", "B")]) == "A  B"


def test_what_strangers_write_cannot_move_the_cursor() -> None:
    text = toolkit.table([{"a": "x\x1b[2J\ny\u202e"}], [("a", "A")])
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2
    assert toolkit.fields([("a", ["x\r", "y"])]) == "a  x�\n   y"


def test_json_is_the_value_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    toolkit.set_options(Options(json=True))
    toolkit.emit({"x": "ü\n", "b": b"\x01"}, lambda value: "never")
    assert capsys.readouterr().out == '{\n  "x": "ü\\n",\n  "b": "01"\n}\n'


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolkit.styled("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR", raising=False)
    with terminal(80):
        assert toolkit.styled("x", "red") == "\x1b[31mx\x1b[0m"
        monkeypatch.setenv("NO_COLOR", "")
        assert toolkit.styled("x", "red") == "x"
        monkeypatch.delenv("NO_COLOR")
        toolkit.set_options(Options(color=False))
        assert toolkit.styled("x", "red") == "x"


def test_progress_is_drawn_on_a_terminal_only() -> None:
    state = {"text": "loading", "done": 512 * 2**20, "total": 2**30, "unit": "B"}
    pipe = io.StringIO()
    with redirect_stderr(pipe), Progress() as bar:
        bar(state)
    assert pipe.getvalue() == ""

    with terminal(100), redirect_stderr(Terminal()) as shown, Progress() as bar:
        bar(state)
        bar({"text": "counting", "done": 5, "total": None, "unit": "layers"})
    text = shown.getvalue()
    assert "loading [############............]  50% 512.0 MiB of 1.0 GiB" in text
    assert "counting 5 layers" in text
    assert text.endswith("\r\x1b[K")


def test_the_socket_is_the_option_the_variable_or_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, system = tmp_path / "own.sock", tmp_path / "system.sock"
    monkeypatch.delenv("AITORRENT_SOCKET", raising=False)

    def chosen() -> str:
        return toolkit.socket_path(own=str(own), system=str(system))

    assert toolkit.socket_path() in (str(paths.default_socket()), toolkit.SYSTEM_SOCKET)
    assert chosen() == str(own)
    system.touch()
    assert chosen() == str(system)
    own.touch()
    assert chosen() == str(own)
    monkeypatch.setenv("AITORRENT_SOCKET", "/from/env")
    assert toolkit.socket_path() == "/from/env"
    toolkit.set_options(Options(socket="/from/option"))
    assert toolkit.socket_path() == "/from/option"


def test_another_version_of_the_daemon_is_mentioned_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    toolkit._warn_of_skew("aitorrentd/99.0.0")
    toolkit._warn_of_skew("aitorrentd/99.0.0")
    told = capsys.readouterr().err
    assert told.count("warning: the daemon is version 99.0.0, this program is") == 1
