"""Running a command line: standard streams, errors as a line on stderr, exit codes."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from io import TextIOWrapper
from typing import Any, Final, TextIO, cast

from aitorrentd.cli import toolkit
from aitorrentd.cli.app import root
from aitorrentd.cli.plugin_commands import PluginCommands
from aitorrentd.cli.toolkit import PROGRAM, CommandFailed, set_options
from aitorrentd.errors import AitorrentError, ConfigError
from aitorrentd.exit_codes import ExitCode
from aitorrentd.system.words import readable, unreadable

_DISK_TROUBLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"What ends a command while it writes, without being a bug in it."


def exit_code(error: AitorrentError) -> int:
    """The exit code for an error."""
    from aitorrentd.control.client import NoDaemon

    if isinstance(error, NoDaemon):
        return ExitCode.NO_DAEMON
    if error.code == "denied":
        return ExitCode.DENIED
    if error.code in ("timeout", "busy"):
        return ExitCode.TRY_LATER
    if error.data.get("kind") == "config" or isinstance(error, ConfigError):
        return ExitCode.CONFIG
    if error.code == "invalid_params":
        return ExitCode.USAGE
    return ExitCode.ERROR


def dispatch(group: Any, args: Sequence[str]) -> int:
    """Run one command line on the tree; errors become a line on stderr and an exit code."""
    try:
        group.main(args=list(args), prog_name=PROGRAM, standalone_mode=True)
    except SystemExit as e:
        if e.code == ExitCode.INTERRUPTED:
            return _interrupted()
        return e.code if isinstance(e.code, int) else 0
    except CommandFailed as e:
        toolkit.complain(e)
        return int(e.code)
    except AitorrentError as e:
        if e.data.get("starting") and _has_started():
            return dispatch(group, args)
        toolkit.complain(e)
        return exit_code(e)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        return ExitCode.OK
    except UnicodeError as e:
        toolkit.complain(
            CommandFailed(f"text cannot be read or sent: {unreadable(e)}", ExitCode.ERROR)
        )
        return ExitCode.ERROR
    except OSError as e:
        if e.errno not in _DISK_TROUBLE:
            raise
        text = f"cannot write the output: {e.strerror}"
        toolkit.complain(CommandFailed(text, ExitCode.ERROR))
        return ExitCode.ERROR
    return ExitCode.OK


def _has_started() -> bool:
    """Wait for a node whose plugins are still starting, at most --timeout seconds."""
    limit_s = toolkit.timeout_s()
    try:
        with toolkit.connect(limit_s + 1) as client:
            client.call("node.wait", {"timeout_s": limit_s}, timeout=limit_s + 1)
    except AitorrentError:
        return False
    return True


def _interrupted() -> int:
    """End the line on which the terminal wrote ^C."""
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    return ExitCode.INTERRUPTED


def _nowhere(mode: str = "w") -> TextIO:
    return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))


def _prepare_streams() -> None:
    """Make the standard streams accept any text; one closed by the parent (`>&-`) is empty."""
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show a character shows an escape, and the command continues.
            with suppress(OSError):  # flushing buffered text; the command meets the same error
                stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, TextIOWrapper):
        # The C locale claims ASCII by default, not by intent. Undecodable bytes are an error rather
        # than surrogates, which cannot be sent.
        is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else None, errors="strict")


def run(args: Sequence[str], *, plugins: PluginCommands | None = None) -> int:
    """Run a command line and leave the streams so that the interpreter exits quietly."""
    toolkit.start_over()
    _prepare_streams()
    try:
        args = readable(args)
    except AitorrentError as e:
        set_options(replace(toolkit.options, json="--json" in args))
        toolkit.complain(CommandFailed(e.message, ExitCode.USAGE))
        return ExitCode.USAGE
    code = dispatch(root(args, plugins=plugins), args)
    try:
        sys.stdout.flush()
    except OSError:
        # The reader left or the disk is full; buffered output must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
