"""aitorrentd: the daemon's command line.

Its exit codes, `DaemonExit`, are those of sysexits.h, which systemd shows by name.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Final

from aitorrentd import __version__
from aitorrentd.errors import (
    AitorrentError,
    ConfigError,
    Conflict,
    Denied,
    InvalidParams,
    Unavailable,
)
from aitorrentd.exit_codes import DaemonExit
from aitorrentd.installing import layer as layers
from aitorrentd.system.foreign import disable_pydantic_plugins, tolerate_damaged_distributions
from aitorrentd.system.line_writer import write_within
from aitorrentd.system.streams import append_to_file, fill_standard_descriptors, stdout_to_stderr
from aitorrentd.system.systemd import is_journal
from aitorrentd.system.words import readable, unreadable

if TYPE_CHECKING:
    from aitorrentd.config import Config

_LAST_LINES_S: Final = 2.0
"How long exit waits for the log's reader; a pipe that is never read must not block it."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        complain(f"{message}; see aitorrentd --help")
        sys.exit(DaemonExit.USAGE)

    def _print_message(self, message: str, file: object = None) -> None:
        # argparse ignores a full disk. `error` is ours, so this only affects stdout.
        if not _told(message):
            sys.exit(DaemonExit.UNAVAILABLE)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(
        prog="aitorrentd",
        description="Run models split across peers.",
        epilog="All other settings are in the configuration file; see aitorrentctl config show.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--config", metavar="FILE", help="configuration file")
    add("--state-dir", metavar="DIR", help="directory of the identity and databases")
    add("--identity", metavar="FILE", help="key file; created if missing")
    add("--host", metavar="ADDRESS", help="listen for peers on this address")
    add("--port", metavar="N", type=_port, help="listen for peers on this port; 0 = any free port")
    add("--bootstrap", metavar="ADDR", nargs="+", action="extend", help="peers to connect to")
    add(
        "--masking",
        action="store_true",
        default=None,
        help="disguise peer connections as WebSocket traffic",
    )
    levels = ("debug", "info", "warning", "error")
    add("--log-level", choices=levels, help="minimum level to log (default: info)")
    add("--verbose", action="store_true", help="same as --log-level debug")
    add("--check", action="store_true", help="check the configuration and exit")
    add("--version", action="version", version=f"aitorrentd {__version__}")
    # The first version opened a prompt unless told not to; now there is none (aitorrentctl shell).
    add("--no-shell", action="store_true", help=argparse.SUPPRESS)
    return made


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The settings from the command line, in the form of the configuration."""
    level = args.log_level or ("debug" if args.verbose else None)
    tables: dict[str, dict[str, Any]] = {
        "node": {"state_dir": args.state_dir, "identity": args.identity},
        "log": {"level": level},
        "transport": {
            "listen": args.host,
            "port": args.port,
            "bootstrap": args.bootstrap,
            "masking": args.masking,
        },
    }
    given = {
        name: {key: value for key, value in table.items() if value is not None}
        for name, table in tables.items()
    }
    transport = given.pop("transport")
    tree: dict[str, Any] = {name: table for name, table in given.items() if table}
    if transport:
        tree["plugins"] = {"transport": transport}
    return tree


def complain(message: str, *, level: int = 3) -> None:
    """Report on standard error, in self-contained lines, why the daemon exits.

    `level` is that of syslog(3), for the journal: 3 = error, 4 = warning.
    """
    prefix = f"<{level}>" if is_journal(2) else "aitorrentd: "
    text = "".join(f"{prefix}{line}\n" for line in message.splitlines())
    if sys.stderr is not None:  # closed by our parent process
        write_within(sys.stderr, text, timeout_s=_LAST_LINES_S)


def _told(text: str) -> bool:
    """Write to standard output; False if that failed, which was then reported."""
    if sys.stdout is None:
        return True  # closed by our parent process, and so not missed
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as e:
        # Buffered output must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(e, BrokenPipeError):
            complain(f"cannot write the output: {e.strerror}")
            return False
    return True


def exit_code(error: AitorrentError) -> int:
    """The exit code for the kind of error that ended the daemon."""
    from aitorrentd.config.drop_ins import UnreadableConfig
    from aitorrentd.config.load import WrongSettings

    if isinstance(error, UnreadableConfig | WrongSettings) and error.is_denied is not None:
        return DaemonExit.NOPERM if error.is_denied else DaemonExit.UNAVAILABLE
    kinds: tuple[tuple[type[AitorrentError], int], ...] = (
        (ConfigError, DaemonExit.CONFIG),
        (Denied, DaemonExit.NOPERM),
        (Conflict, DaemonExit.UNAVAILABLE),
        (Unavailable, DaemonExit.UNAVAILABLE),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), DaemonExit.SOFTWARE)


def _words(argv: Sequence[str]) -> list[str]:
    """The arguments, each valid text that may be a file name here; otherwise exit."""
    try:
        words = readable(argv)
        for word in words:
            os.fsencode(word)
    except InvalidParams as e:
        complain(f"{e.message}; see aitorrentd --help")
        sys.exit(DaemonExit.USAGE)
    except UnicodeEncodeError as e:
        complain(f"an argument cannot be used: {unreadable(e)}")
        sys.exit(DaemonExit.USAGE)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is asked to stop; returns the exit code."""
    fill_standard_descriptors()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parser().parse_args(_words(sys.argv[1:] if argv is None else argv))
    # Databases and sockets are private unless their own code sets another mode.
    os.umask(0o077)
    layers.activate()
    disable_pydantic_plugins()
    tolerate_damaged_distributions()
    from aitorrentd.config import Config

    try:
        config = Config.load(args.config, overrides=overrides(args), outside=args.check)
    except ConfigError as e:
        return _refuse(e)
    if args.check:
        return _check(config)

    import uvloop

    from aitorrentd.api.descriptors import raise_limit
    from aitorrentd.daemon.daemon import serve
    from aitorrentd.daemon.room import check_room
    from aitorrentd.system.systemd import listen_fds

    raise_limit()
    append_to_file(2)
    try:
        # Before anything can open a descriptor with the number of a socket that was never passed.
        given = listen_fds()
        check_room()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(config, given))
    except AitorrentError as e:
        complain("\n".join(e.problems) if isinstance(e, ConfigError) else e.message)
        return exit_code(e)
    return DaemonExit.OK


def _check(config: Config) -> int:
    if code := _refuse(config):
        return code
    from aitorrentd.doctor.checks import beside

    for text in beside(config):
        complain(f"warning: {text}", level=4)
    files = ", ".join(str(file) for file in config.files) or "no files, defaults only"
    return (
        DaemonExit.OK if _told(f"the configuration is valid: {files}\n") else DaemonExit.UNAVAILABLE
    )


def _refuse(config: Config | ConfigError) -> int:
    """Report every problem in the configuration; DaemonExit.OK means there are none."""
    from aitorrentd.config.plugin_tables import all_problems

    with stdout_to_stderr():
        wrong = asyncio.run(all_problems(config))
    if not wrong:
        return DaemonExit.OK
    complain("\n".join(wrong))
    return exit_code(config) if isinstance(config, ConfigError) else DaemonExit.CONFIG


if __name__ == "__main__":
    sys.exit(main())
