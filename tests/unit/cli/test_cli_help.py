"""The help of every core command, frozen: UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from aitorrentd.cli import app, toolkit
from aitorrentd.cli.plugin_commands import PluginCommands
from aitorrentd.system.distributions import Scan
from tests.support.cli_runs import run_here

NO_PLUGINS = PluginCommands(app.RESERVED, scan=lambda *groups: Scan())
GOLDEN = Path(__file__).parents[2] / "golden" / "cli_help.txt"


def commands(group: Any, names: Iterable[str]) -> Iterator[tuple[list[str], Any]]:
    """Each command of the tree with its words, groups before what is in them."""
    for name in names:
        command = group.get_command(None, name)
        yield [name], command
        below = getattr(command, "commands", {})
        yield from (([name, *words], found) for words, found in commands(command, below))


def test_help_is_what_the_snapshot_says() -> None:
    parts = []
    words = [words for words, _ in commands(app.root(), app.CORE)]
    for command in ([], *(w for w in words if len(w) == 1), *(w for w in words if len(w) > 1)):
        told = run_here(*command, "--help", plugins=NO_PLUGINS)
        assert (told.code, told.err) == (0, "")
        parts.append(f"$ {' '.join(['aitorrentctl', *command, '--help'])}\n{told.out}")
    text = "\n".join(parts)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "UPDATE_GOLDEN=1 accepts the change"


def test_every_core_command_is_registered_by_its_module() -> None:
    group = app.root(plugins=NO_PLUGINS)
    for name in app.CORE:
        command = group.get_command(None, name)
        assert command is not None
        assert command.name == name


@cache
def built_in() -> list[tuple[list[str], Any]]:
    """Every command that comes with aitorrentd, its plugins' included, and the top level."""
    group = app.root()
    return [([], group), *commands(group, group.list_commands(None))]


@cache
def help_of(*words: str) -> str:
    """The help of a command, as it is printed."""
    return run_here(*words, "--help").out


def line_after_program(example: str) -> list[str]:
    """The arguments of the `aitorrentctl` in a shell command line."""
    words = shlex.split(example, comments=True)
    return words[words.index(toolkit.PROGRAM) + 1 :]


def test_every_help_ends_with_examples() -> None:
    for words, _ in built_in():
        help_text = help_of(*words)
        _, heading, examples = help_text.partition("\nExamples:\n")
        assert heading, f"{words} has no example"
        lines = examples.splitlines()
        assert 1 <= len(lines) <= 3, words
        assert all(line.startswith("  ") and len(line) <= 80 for line in lines), words


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_sampling_options_have_a_heading_after_the_other_options(command: str) -> None:
    general, heading, sampling = run_here(command, "--help").out.partition("\nSampling options:\n")
    assert heading
    options = general.partition("\nOptions:\n")[2]
    assert re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", options)[:2] == ["--model", "--system"]
    assert "--help" in options
    found = re.findall(r"(?m)^  (--[\w-]+)", sampling)
    assert {"--temperature", "--top-p", "--seed"} < {*found}
    assert not {*found} & {*re.findall(r"--[\w-]+", options)}


def test_every_example_is_a_command_line_that_its_command_takes() -> None:
    seen = 0
    root = app.root()
    for words, command in built_in():
        for example in command.epilog.splitlines():
            context = root.make_context(toolkit.PROGRAM, line_after_program(example))
            named: list[str] = []
            args = [*context._protected_args, *context.args]
            while isinstance(context.command, TyperGroup) and args:
                name, inner, args = context.command.resolve_command(context, args)
                assert inner is not None, example
                context = inner.make_context(name, args, parent=context)
                named.append(str(name))
                args = [*getattr(context, "_protected_args", ()), *context.args]
            assert named[: len(words)] == words, example
            seen += 1
    assert seen > 40


def test_other_text_after_the_options_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def register(typer_app: typer.Typer) -> None:
        typer_app.command("x", epilog="See also: the manual.")(lambda: None)

    command = app._built(SimpleNamespace(register=register))["x"]
    with command.make_context("x", []) as context:
        assert command.get_help(context).endswith("\n\n  See also: the manual.")


def test_no_help_shows_the_type_names_of_the_language() -> None:
    for words, _ in [*built_in(), (["peers"], None), (["peers", "ban"], None)]:
        help_text = help_of(*words)
        assert not re.search(
            r"<(float|int|str|list|bool|path)\b|<=x|\bx[<>]=|\{[A-Z]+\}", help_text
        )


def test_help_names_numbers_and_their_ranges_in_words() -> None:
    shown = " ".join(run_here("ask", "--help").out.split())
    assert "--temperature NUMBER Sampling temperature" in shown
    assert "[0 to 100]" in shown
    limit = "Maximum number of new tokens; -1 = the rest of the context. [at least -1]"
    assert f"--max-tokens COUNT {limit}" in shown
    assert "Usage: aitorrentctl peers ban [OPTIONS] SUBJECT\n" in run_here("peers", "ban", "-h").out


def test_daily_commands_come_first_in_the_help() -> None:
    listed = run_here("--help").out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed[:5]] == ["ask", "chat", "models", "peers", "status"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("ask --temperature hot x", "'hot' is not a number from 0 to 100\n"),
        ("ask --temperature 200 x", "'200' is not a number from 0 to 100\n"),
        ("ask --top-k 1.5 x", "'1.5' is not a whole number of at least 0\n"),
        ("ping --count 0 x", "'0' is not a whole number from 1 to 100\n"),
        ("logs --lines many", "'many' is not a whole number"),
        ("token new a --role king", "for '--role': 'king' is not one of 'generate', 'read'"),
    ],
)
def test_value_that_is_not_accepted_is_named_with_the_range(line: str, text: str) -> None:
    ran = run_here(*line.split())
    assert ran.code == toolkit.ExitCode.USAGE
    assert text in ran.err
