"""Manual pages: whole, because they are written from the code, and safe for troff."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr

from aitorrentd import main
from aitorrentd.exit_codes import DaemonExit, ExitCode
from aitorrentd.kernel.hooks import HOOKS
from tools.manual import pages as manual
from tools.manual.described import Command, Parameter, commands, kind_text, plugin_tables, table_of
from tools.manual.roff import Page, escaped, marked


def plain(page: Page) -> str:
    """The text of a page, without its macros."""
    text = re.sub(r"\\f[BR]", "", page.render())
    return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\&", "").replace("\\e", "\\")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {page.file_name: plain(page) for page in manual.pages()}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".SH not a macro", "\\&.SH not a macro"),
        ("a\n.b", "a\n\\&.b"),
        ("back\\slash", "back\\eslash"),
        ("--json", "\\-\\-json"),
        ("it's", "it\\(aqs"),
        ("12D3KooW…", "12D3KooW..."),
        ("é", "\\[u00E9]"),
    ],
)
def test_text_is_shown_as_it_stands(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_backquotes_make_bold() -> None:
    assert marked("see `--json` now") == "see \\fB\\-\\-json\\fR now"


def test_page_begins_with_its_title_and_name() -> None:
    page = Page("a-b", 7, version="1.2", about="about it")
    assert page.render().splitlines() == [
        '.TH A\\-B 7 "" "aitorrentd 1.2" "aitorrentd"',
        '.SH "NAME"',
        "a\\-b \\- about it",
    ]


def test_every_page_is_written(tmp_path: Path) -> None:
    written = manual.write(tmp_path / "man")
    assert sorted(file.name for file in written) == [
        "aitorrent-plugins.7",
        "aitorrent.yaml.5",
        "aitorrentctl.1",
        "aitorrentd.8",
    ]
    for file in written:
        assert file.read_text(encoding="ascii").startswith(".TH ")


def test_every_command_and_option_is_described(pages: dict[str, str]) -> None:
    page = pages["aitorrentctl.1"]
    found = commands()
    assert {"status", "plugin", "ask", "peers"} <= {command.words[0] for command in found}
    for command in found:
        assert command.usage in page
        for parameter in command.parameters:
            assert parameter.usage in page, f"{command.usage}: {parameter.usage}"


def test_every_option_of_the_daemon_is_described(pages: dict[str, str]) -> None:
    shown = main.parser().format_help()
    for option in set(re.findall(r"--[a-z-]+", shown)):
        assert option in pages["aitorrentd.8"]
    assert "--no-shell" not in pages["aitorrentd.8"]


def test_every_setting_is_described(pages: dict[str, str]) -> None:
    tables = [table for _, _, tables in plugin_tables() for table in tables]
    keys = [setting.key for table in tables for setting in table.settings]
    assert "plugins.transport.port" in keys
    assert "plugins.shards.models[].layers" in keys
    for key in (*keys, "node.name", "control.group", "log.level", "required", "version"):
        assert f"\n{key}\n" in pages["aitorrent.yaml.5"], key


def test_every_hook_is_described(pages: dict[str, str]) -> None:
    for hook in HOOKS:
        assert f"{hook}(" in pages["aitorrent-plugins.7"]


def test_every_exit_code_is_described(pages: dict[str, str]) -> None:
    for end in DaemonExit:
        assert f"\n{end.value}\n" in pages["aitorrentd.8"]
    for code in ExitCode:
        assert f"\n{code.value}\n" in pages["aitorrentctl.1"]


def test_every_page_names_the_others(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        others = page.rpartition("SEE ALSO")[2]
        for file in pages:
            stem, _, section = file.rpartition(".")
            assert (f"{stem}({section})" in others) == (file != name)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    """Something inside."""

    size: int = 1


class Sample(BaseModel):
    """A table
    over two lines."""

    port: Annotated[int, Field(ge=0)] = 8468
    "Where it listens."
    name: str | None = Field(None, description="what people call it")
    secret: SecretStr | None = None
    hosts: tuple[str, ...] = ("a", "b")
    level: Literal["low", "high"] = "low"
    inner: Inner = Inner()
    needed: float


def test_settings_are_read_from_a_model() -> None:
    table = table_of("plugins.sample", Sample)
    assert table.text == "A table over two lines."
    shown = {s.key.rpartition(".")[2]: (s.kind, s.default, s.text) for s in table.settings}
    assert shown == {
        "port": ("whole number", "8468", "Where it listens."),
        "name": ("text or null", "null", "what people call it"),
        "secret": ("secret or null", "null", ""),
        "hosts": ("list of text", "[a, b]", ""),
        "level": ("low, high", "low", ""),
        "inner": ("table", "", ""),
        "needed": ("number", "required", ""),
    }


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (bool, "true or false"),
        (list[int], "list of whole number"),
        (dict[str, int], "table"),
        (Path, "path"),
        (Colour, "red, blue"),
        (Annotated[int, "x"], "whole number"),
    ],
)
def test_types_are_said_in_words(kind: object, words: str) -> None:
    assert kind_text(kind) == words


def test_usage_puts_in_brackets_what_may_be_left_out() -> None:
    command = Command(
        ("peers", "add"),
        "",
        (
            Parameter("--wait", "", required=False, is_option=True),
            Parameter("ADDRESS", "", required=True, is_option=False),
        ),
    )
    assert command.usage == "peers add [--wait] ADDRESS"
