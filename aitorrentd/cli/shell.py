"""`shell`: the same commands at a prompt, with history and completion."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import typer

from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import PROGRAM, CommandFailed
from aitorrentd.exit_codes import ExitCode
from aitorrentd.system.paths import home

_PROMPT: Final = "aitorrentctl> "
_HISTORY_LINES: Final = 1000


def shell() -> None:
    """Open an interactive prompt for commands, typed without `aitorrentctl`.

    `help` lists them; `quit`, `exit` or Ctrl-D exits. Global options given before `shell` apply to
    every command. If standard input is not a terminal, it exits with the code of the last command.
    """
    from aitorrentd.cli.app import LEAVE, root
    from aitorrentd.cli.running import dispatch

    base = toolkit.options
    group = root()
    code = 0
    with _line_editing(group):
        while (line := _read_line()) is not None:
            try:
                words = shlex.split(line, comments=True)
            except ValueError as e:
                toolkit.set_options(base)
                toolkit.complain(CommandFailed(f"cannot parse that: {e}", ExitCode.USAGE))
                code = ExitCode.USAGE
                continue
            if words and words[0] == PROGRAM:
                del words[0]  # pasted from a page
            if not words:
                continue
            if words[0] in LEAVE:
                break
            if words[0] == "shell":
                toolkit.warn("already in the shell")
                continue
            toolkit.set_options(base)
            code = dispatch(group, [*words[1:], "--help"] if words[0] == "help" else words)
    if code and not sys.stdin.isatty():
        raise typer.Exit(code)


def _read_line() -> str | None:
    while True:
        try:
            return toolkit.read_line(_PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                toolkit.echo()
            return None
        except KeyboardInterrupt:
            toolkit.echo()
        except CommandFailed as e:
            if not sys.stdin.isatty():
                raise
            toolkit.complain(e)


def history_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the shell keeps its history: $XDG_STATE_HOME/aitorrent/shell_history."""
    base = environ.get("XDG_STATE_HOME", "")
    state = Path(base) if base.startswith("/") else home(environ) / ".local" / "state"
    return state / "aitorrent" / "shell_history"


def completer(group: Any) -> Callable[[str, int], str | None]:
    """A readline completer over the words of the command tree."""
    import readline

    def candidates(text: str) -> list[str]:
        before = readline.get_line_buffer()[: readline.get_begidx()].split()
        return [word for word in next_words(group, before) if word.startswith(text)]

    def complete(text: str, state: int) -> str | None:
        found = candidates(text)
        return f"{found[state]} " if state < len(found) else None

    return complete


def next_words(group: Any, before: list[str]) -> list[str]:
    """Completions for the words `before`: commands, or the options of a command."""
    from aitorrentd.cli.app import LEAVE

    context = typer.Context(group, info_name="aitorrentctl", resilient_parsing=True)
    if not before:
        return [*group.list_commands(context), "help", *LEAVE]
    if before == ["help"]:
        return list(group.list_commands(context))
    command = group
    for word in before:
        commands = getattr(command, "commands", None)
        if commands is None:
            break
        command = command.get_command(context, word)
        if command is None:
            return []
    if getattr(command, "commands", None) is not None:
        return list(command.list_commands(context))
    return [option for param in command.params for option in param.opts if option[0] == "-"]


@contextmanager
def _line_editing(group: Any) -> Iterator[None]:
    """Set up readline with history and completion for interactive use."""
    if not sys.stdin.isatty():
        yield
        return
    import readline

    file = history_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if file.exists():
            readline.read_history_file(file)
    except OSError as e:
        toolkit.warn(f"no history: {e.strerror}")
    readline.set_history_length(_HISTORY_LINES)
    readline.set_completer(completer(group))
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        try:
            readline.write_history_file(file)
            file.chmod(0o600)
        except OSError as e:
            toolkit.warn(f"cannot save the history: {e.strerror}")


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(
        "shell",
        epilog=toolkit.examples("shell", "--socket ./control.sock shell"),
    )(shell)
