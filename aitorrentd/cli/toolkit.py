"""The building blocks of `aitorrentctl` commands; the stable module for plugins' commands.

    def peers() -> None:
        with toolkit.connect() as client:
            reply = client.call("transport.peers")
        toolkit.emit(reply, render)

    def render(reply: Mapping[str, Any]) -> str:
        return toolkit.table(reply["peers"], [("id", "PEER"), ("rtt_s", "RTT", toolkit.ms_text)])

Results go to stdout: a table for people, or with --json exactly what the daemon answered.
Everything else goes to stderr, where with --json an error is a JSON object on one line. The options
--json, --socket, --timeout and --no-color may appear anywhere on the command line and are extracted
before a command sees its arguments, so no command defines them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from aitorrentd.cli import tables
from aitorrentd.display import bytes_text as bytes_text
from aitorrentd.display import called as called
from aitorrentd.display import short as short
from aitorrentd.display import short_ids as short_ids
from aitorrentd.errors import AitorrentError as AitorrentError  # for commands that survive one
from aitorrentd.exit_codes import ExitCode as ExitCode
from aitorrentd.system.files import replacing as replacing

if TYPE_CHECKING:
    from aitorrentd.control.aclient import AsyncClient as AsyncClient
    from aitorrentd.control.client import Client, ClientStream

PROGRAM: Final = "aitorrentctl"
SYSTEM_SOCKET: Final = "/run/aitorrent/control.sock"
DEFAULT_TIMEOUT_S: Final = 30.0

Column = tuple[str, str] | tuple[str, str, Callable[[Any], str]]
"A key of the row, the heading, and a function that turns the value into text."


class CommandFailed(Exception):
    """Ends a command with a message on stderr and an exit code; `hint` appears only in JSON
    errors."""

    def __init__(self, message: str, code: int, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Options:
    """The global options."""

    socket: str | None = None
    json: bool = False
    timeout: float | None = None
    "Seconds that the user asked for, or None."
    color: bool = True


options = Options()
"The global options of this command; `aitorrentctl` sets them before the command runs."
_has_warned_of_skew = False
_stdin: str | None = None


def set_options(value: Options) -> None:
    """Replace the global options; only `aitorrentctl` itself calls this."""
    global options
    options = value


def start_over() -> None:
    """Reset for another command line; only `aitorrentctl` itself calls this."""
    global options, _has_warned_of_skew, _stdin
    options, _has_warned_of_skew, _stdin = Options(), False, None


def socket_path(*, own: str = "", system: str = SYSTEM_SOCKET) -> str:
    """The control socket: --socket, $AITORRENT_SOCKET, this user's daemon, the system's daemon."""
    chosen = options.socket or os.environ.get("AITORRENT_SOCKET")
    if chosen:
        return chosen
    from aitorrentd.system.paths import default_socket

    own = own or str(default_socket())
    return system if not os.path.exists(own) and os.path.exists(system) else own


def timeout_s(default: float = DEFAULT_TIMEOUT_S) -> float:
    """Seconds that a call may take: --timeout, or `default`."""
    return default if options.timeout is None else options.timeout


def connect(timeout: float | None = None) -> Client:
    """Connect to the daemon that the global options name.

    `timeout` in seconds applies to each call, unless the user gave --timeout.

    Raises:
        AitorrentError: not reachable; `aitorrentctl` turns it into a message and an exit code.
    """
    from aitorrentd.control.client import Client

    client = Client(socket_path(), timeout_s(timeout or DEFAULT_TIMEOUT_S))
    _warn_of_skew(str(client.hello.get("server", "")))
    return client


async def connect_async() -> AsyncClient:
    """Like `connect`, for a command that has several calls open at the same time."""
    from aitorrentd.control.aclient import AsyncClient

    client = await AsyncClient.connect(socket_path(), timeout_s())
    _warn_of_skew(str(client.hello.get("server", "")))
    return client


def connect_when_up(timeout: float | None = None) -> Client:
    """Like `connect`, for a daemon that may have just been started: waits for its socket for a
    short time, or while it is known to be starting."""
    from aitorrentd.cli import starting

    return starting.connect_when_up(lambda: connect(timeout), options.timeout)


def _warn_of_skew(server: str) -> None:
    global _has_warned_of_skew
    from aitorrentd import __version__

    name, _, version = server.partition("/")
    if name == "aitorrentd" and version != __version__ and not _has_warned_of_skew:
        _has_warned_of_skew = True
        warn(f"the daemon is version {clean(version)}, this program is {__version__}")


def echo(text: str = "", *, end: str = "\n") -> None:
    """Write to stdout and flush: readers of a stream see each line as it happens."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def read_stdin(max_chars: int) -> str:
    """All of standard input.

    Raises:
        CommandFailed: over `max_chars` characters, or not UTF-8.
    """
    global _stdin
    if _stdin is not None:  # a command that runs again, since the node was still starting
        return _stdin
    try:
        text = sys.stdin.read(max_chars + 1)
    except UnicodeDecodeError as e:
        from aitorrentd.system.words import unreadable

        fail(f"standard input cannot be read: {unreadable(e)}")
    if len(text) > max_chars:
        fail(f"standard input has over {max_chars} characters")
    _stdin = text
    return text


def read_line(prompt: str = "") -> str:
    """A line of standard input, as `input` returns it.

    Raises:
        CommandFailed: it is not UTF-8; on a terminal the user may try again. EOFError: no more
        input.
    """
    try:
        return input(prompt)
    except UnicodeDecodeError as e:
        from aitorrentd.system.words import unreadable

        fail(f"standard input cannot be read: {unreadable(e)}")


def redraw(text: str) -> None:
    """Show `text` in place of the previous text on a terminal; elsewhere below it."""
    echo(f"\x1b[H\x1b[2J{text}" if sys.stdout.isatty() else f"\n{text}")


def warn(message: str) -> None:
    """Write a line on stderr that starts with `warning:`."""
    sys.stderr.write(f"warning: {message}\n")
    sys.stderr.flush()


def fail(message: str, code: int = ExitCode.ERROR) -> NoReturn:
    """End the command with a message on stderr, in sentence case, that says what to do."""
    raise CommandFailed(message, code)


def complain(error: AitorrentError | CommandFailed) -> None:
    """Report an error on stderr: `Error: ` and the message, with --json an object on one line."""
    if options.json:
        # ASCII on every terminal: escapes for unsupported characters would break the JSON.
        text = json.dumps({"error": _error_map(error)}, default=_json_fallback)
    else:
        lines = _error_text(error).splitlines()
        text = "\n".join(["Error: " + clean(lines[0] if lines else ""), *map(clean, lines[1:])])
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _error_text(error: AitorrentError | CommandFailed) -> str:
    if isinstance(error, CommandFailed):
        return error.message
    message, error_id = error.message or error.code, str(error.data.get("error_id") or "")
    return message if error_id in message else f"{message} (error id {error_id})"


def _error_map(error: AitorrentError | CommandFailed) -> dict[str, Any]:
    """`code`, `message`, and `data` or `hint` if present."""
    if isinstance(error, CommandFailed):
        known = {int(code): code.name.lower() for code in ExitCode}
        found = {"code": known.get(error.code, "error"), "message": error.message}
        return {**found, "hint": error.hint} if error.hint else found
    described = error.as_map()
    return described if error.data else {k: described[k] for k in ("code", "message")}


def json_text(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON; bytes in hexadecimal."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not is_unicode, indent=indent, default=_json_fallback)


def _json_fallback(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def examples(*lines: str) -> str:
    """The `epilog=` of a command: one or two command lines that work as written.

    Each is written without the program's name, which help adds in front. In a pipeline the name is
    written out: `git diff | aitorrentctl ask "Review this"`.
    """
    return "\n".join(line if f"{PROGRAM} " in line else f"{PROGRAM} {line}" for line in lines)


def emit(value: Mapping[str, Any], render: Callable[[Any], str | None]) -> None:
    """Show a result: with --json unchanged, otherwise what `render` returns or writes itself."""
    if options.json:
        echo(json_text(value, indent=2))
        return
    text = render(value)
    if text:
        echo(text)


def emit_stream(
    stream: ClientStream, render: Callable[[dict[str, Any]], str | None]
) -> dict[str, Any]:
    """Show each stream item as it arrives, with --json one line each; returns the summary."""
    with stream:
        for item in stream:
            if options.json:
                echo(json_text(item))
            else:
                text = render(item)
                if text is not None:
                    echo(text)
    return stream.summary


def clean(text: object) -> str:
    """Untrusted text without terminal control characters."""
    return "".join(c if c.isprintable() else "�" for c in str(text))


def styled(text: str, style: str) -> str:
    """`text` in `bold`, `dim`, `red`, `green` or `yellow`, if stdout is a terminal."""
    codes = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}
    is_plain = not options.color or "NO_COLOR" in os.environ or not sys.stdout.isatty()
    return text if is_plain else f"\x1b[{codes[style]}m{text}\x1b[0m"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(clean(v) for v in value) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return clean(value)


def table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, drop: Sequence[str] = ()
) -> str:
    """An aligned table as text: headings, then one line per row; numbers right-aligned.

    None and missing keys show as `-`, True as `yes`, a list as its parts. On a terminal that is too
    narrow, the columns of the keys in `drop` are omitted, the first one first, and the text of the
    last column is wrapped.
    """
    rows = list(rows)
    lines = [[column[1] for column in columns]]
    for row in rows:
        values = [(column, row.get(column[0])) for column in columns]
        lines.append(
            [clean(c[2](v)) if len(c) > 2 and v is not None else _cell(v) for c, v in values]
        )
    is_right = [
        bool(rows)
        and all(type(row.get(column[0])) in (int, float, type(None)) for row in rows)
        and any(row.get(column[0]) is not None for row in rows)
        for column in columns
    ]
    keys = [column[0] for column in columns]
    width = tables.terminal_columns()
    shown = tables.fitting(lines, [keys.index(key) for key in drop], width)
    lines = [[line[i] for i in shown] for line in lines]
    text = tables.aligned(lines, [is_right[i] for i in shown], width)
    text[0] = styled(text[0], "bold")
    return "\n".join(text)


def fields(pairs: Iterable[tuple[str, Any]]) -> str:
    """Lines of `name value`, aligned; a list takes one line per part."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    lines = []
    for name, value in pairs:
        parts = value if isinstance(value, (list, tuple)) and value else [value]
        lines += [
            f"{name if i == 0 else '':<{width}}  {_cell(part)}".rstrip()
            for i, part in enumerate(parts)
        ]
    return "\n".join(lines)


def duration_text(seconds: float) -> str:
    """A time span in its two largest units: `3 d 4 h`, `2 min 5 s`, `1.2 s`, `35 ms`."""
    if seconds < 0:
        return "-" + duration_text(-seconds)
    if seconds < 1:
        return ms_text(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below} {small}"
    return f"{whole // 60} min {whole % 60} s"


def ms_text(seconds: float) -> str:
    """Milliseconds: `0.42 ms`, `35 ms`."""
    ms = seconds * 1000
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.0f} ms"


def time_text(at: float) -> str:
    """The local time of day of seconds since the epoch: `14:03:07`."""
    return time.strftime("%H:%M:%S", time.localtime(at))


class Progress:
    """A progress line on stderr, drawn only on a terminal.

    Pass the object itself as `progress=` to `Client.call` or `Client.stream`.
    """

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty() and not options.json
        "Whether there is a terminal to draw on."
        self._drawn = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, state: Mapping[str, Any]) -> None:
        """Draw `state`: {text, done, total, unit}."""
        if not self.is_shown:
            return
        text, done, total = clean(state.get("text", "")), state.get("done"), state.get("total")
        unit = clean(state.get("unit", ""))
        if done is not None and total:
            share = min(1.0, max(0.0, done / total))
            bar = ("#" * round(share * 24)).ljust(24, ".")
            text = f"{text} [{bar}] {share:4.0%} {_amount(done, unit)} of {_amount(total, unit)}"
        elif done is not None:
            text = f"{text} {_amount(done, unit)}"
        self._draw(text[: (tables.terminal_columns(sys.stderr) or 0) - 1])

    def clear(self) -> None:
        """Remove the line before other output goes to the terminal."""
        if self._drawn:
            self._draw("")

    def _draw(self, text: str) -> None:
        if text != self._drawn:
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()
            self._drawn = text


def _amount(n: float, unit: str) -> str:
    return bytes_text(n) if unit in ("B", "bytes") else f"{n:g} {unit}".rstrip()
