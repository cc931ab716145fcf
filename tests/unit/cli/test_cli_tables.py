"""Tables and sentences in the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from aitorrentd.cli import tables, toolkit
from aitorrentd.cli.toolkit import Options
from tests.support.cli_runs import terminal

ROWS = [
    {"name": "one", "size": 5, "text": "a text of many words " * 4},
    {"name": "two", "size": 12345, "text": "short"},
]
COLUMNS: list[toolkit.Column] = [("name", "NAME"), ("size", "SIZE"), ("text", "TEXT")]


@pytest.fixture
def width() -> Iterator[Any]:
    """Makes stdout a terminal with so many columns, or none."""
    toolkit.set_options(Options(color=False))
    with ExitStack() as stack:

        def use(columns: int | None) -> None:
            stack.enter_context(terminal(columns))

        yield use


def test_pipe_gets_every_column_and_one_line_for_each_row(width: Any) -> None:
    width(None)
    lines = toolkit.table(ROWS, COLUMNS, drop=("size",)).splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["NAME", "SIZE", "TEXT"]
    assert lines[1].endswith("words")


def test_wide_terminal_gets_every_column(width: Any) -> None:
    width(200)
    assert "SIZE" in toolkit.table(ROWS, COLUMNS, drop=("size",))


def test_narrow_terminal_loses_columns_first_and_then_wraps_the_last(width: Any) -> None:
    width(50)
    lines = toolkit.table(ROWS, COLUMNS, drop=("size",)).splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "TEXT"]  # 36 columns of text are left
    width(46)
    lines = toolkit.table(ROWS, COLUMNS, drop=("size",)).splitlines()
    assert lines[0].split() == ["NAME", "TEXT"]
    assert max(map(len, lines)) <= 46
    assert " ".join(" ".join(lines).split()).count("a text of many words") == 4
    assert lines[2].startswith(" " * 6 + lines[2].strip()[0])  # below the text, not the name
    assert lines[-1].split() == ["two", "short"]


def test_wide_characters_and_marks_keep_columns_straight(width: Any) -> None:
    width(None)
    rows = [{"name": "蜂", "text": "x"}, {"name": "e\u0301e", "text": "x"}]
    lines = toolkit.table(rows, [("name", "N"), ("text", "T")]).splitlines()
    assert [tables.shown_width(line) for line in lines] == [5, 5, 5]
    assert tables.shown_width("蜂e\u0301") == 3


def test_sentence_is_broken_between_words_on_a_terminal_only(width: Any) -> None:
    sentence = "warning: " + "many words and more of them " * 4
    width(None)
    assert tables.wrapped(sentence) == [sentence]
    width(40)
    lines = tables.wrapped(sentence)
    assert max(map(len, lines)) <= 40
    assert {line[:2] for line in lines[1:]} == {"  "}
    assert " ".join(line.strip() for line in lines) == sentence.strip()


def test_list_of_plugins_fits_an_ordinary_terminal(width: Any) -> None:
    from aitorrentd.cli import plugins

    row = {
        "name": "inference",
        "state": "running",
        "since_s": 4000.0,
        "restarts": 0,
        "tier": "builtin",
        "version": "0.1.0",
        "provides": ["inference.backends.v1", "inference.v1"],
        "detail": "no servers in plugins.openai.servers",
    }
    width(80)
    lines = toolkit.table([row], plugins._COLUMNS, drop=plugins._DROP).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["NAME", "STATE", "FOR", "RESTARTS", "DETAIL"]
    width(200)
    assert "VERSION" in toolkit.table([row], plugins._COLUMNS, drop=plugins._DROP)
    width(None)  # services, which would make every line long, are in `plugin info`
    lines = toolkit.table([row], plugins._COLUMNS, drop=plugins._DROP).splitlines()
    assert max(map(len, lines)) < 100


def test_findings_of_the_doctor_are_broken_between_words_and_remedies_are_not(width: Any) -> None:
    from aitorrentd.cli import checking

    width(60)
    check = {
        "name": "directories",
        "plugin": "core",
        "status": "fail",
        "text": "/var/lib/aitorrent is on a read-only file system since yesterday",
        "remedy": "mount -o remount,rw / (dmesg shows why), or set node.state_dir",
    }
    lines = checking._render({"checks": [check]}).splitlines()
    assert lines == [
        "fail  directories: /var/lib/aitorrent is on a read-only file",
        "      system since yesterday",
        "      -> mount -o remount,rw / (dmesg shows why), or set node.state_dir",
        "1 check, 1 failed, 0 with a warning",
    ]
