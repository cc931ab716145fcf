"""The conversation behind `aitorrentctl chat`."""

from __future__ import annotations

import sys
from typing import Any, Final

from aitorrent_inference.cli_answer import message, report, stream_answer
from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import AitorrentError, CommandFailed

_PROMPT: Final = "> "
_GO_ON: Final = "… "
_LEAVE: Final = ("exit", "quit", "/exit", "/quit", "/bye")
_START_OVER: Final = ("new", "/new", "/clear")
_ASK_FOR_HELP: Final = ("/help", "/?")
_HELP: Final = (
    "`new` starts over, `exit` or Ctrl-D ends, Ctrl-C stops an answer; "
    "end a line with \\ to continue it."
)


class Conversation:
    """The turns so far. Unanswered turns are not kept."""

    def __init__(self, params: dict[str, Any], system: str = "") -> None:
        self._params = params
        self._system = system
        self.turns: list[dict[str, str]] = []
        self.start_over()

    def start_over(self) -> None:
        """Forget all turns except the system message."""
        self.turns = [message("system", self._system)] if self._system else []

    def say(self, text: str) -> dict[str, Any]:
        """Send the next turn, print the answer and keep both; return the answer's summary.

        Text printed before Ctrl-C or an error stays in the conversation.
        """
        asked = [*self.turns, message("user", text)]
        pieces: list[str] = []
        try:
            return stream_answer({**self._params, "messages": asked}, pieces)
        finally:
            if answer := "".join(pieces):
                self.turns = [*asked, message("assistant", answer)]


def talk(conversation: Conversation) -> None:
    """Read and answer turns until the end of input.

    Raises:
        CommandFailed: the input is not a terminal, and no turn was answered.
    """
    with toolkit.connect_when_up():
        pass  # report an unreachable daemon before the user types
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  (line editing for input())

        sys.stderr.write(_HELP + "\n")
    outcomes: list[bool] = []
    while (text := _read(is_terminal)) is not None:
        word = text.strip()
        if word in _LEAVE:
            break
        if word in _ASK_FOR_HELP:
            sys.stderr.write(_HELP + "\n")
        elif word in _START_OVER:
            conversation.start_over()
            if is_terminal:
                sys.stderr.write("New conversation.\n")
        elif word:
            outcomes.append(_answer(conversation, text))
    if outcomes and not is_terminal and not any(outcomes):
        toolkit.fail("no turn was answered")


def _answer(conversation: Conversation, text: str) -> bool:
    """Answer one turn; return whether it succeeded. Ctrl-C counts as success."""
    try:
        report(conversation.say(text))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
    except (AitorrentError, CommandFailed) as e:
        toolkit.complain(e)
        return False
    sys.stderr.flush()
    return True


def _read(is_terminal: bool) -> str | None:
    """Read one turn; a trailing backslash continues it on the next line. None at EOF."""
    lines: list[str] = []
    while True:
        try:
            line = toolkit.read_line((_GO_ON if lines else _PROMPT) if is_terminal else "")
        except EOFError:
            if is_terminal:
                toolkit.echo()
            return "\n".join(lines) if lines else None
        except KeyboardInterrupt:
            toolkit.echo()
            lines = []
            continue
        except CommandFailed as e:
            if not is_terminal:
                raise
            toolkit.complain(e)
            lines = []
            continue
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])
