"""Logging: lines for people, JSON or the journal, and a ring buffer for the control API.

Every record is rendered once, with the configuration's secrets redacted, before it goes anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TextIO

from aitorrentd.api.plugin import HealthWarning
from aitorrentd.config.secrets import HIDDEN
from aitorrentd.system.line_writer import LineWriter, QueuedStream
from aitorrentd.system.systemd import is_journal

RING_RECORDS: Final = 2000
_MAX_TEXT_CHARS: Final = 16_384
_MAX_QUEUED: Final = 1024
_MIN_SECRET_CHARS: Final = 4
"Redacting shorter secrets would damage ordinary words."

_LAST_LINES_S: Final = 2.0
"How long process exit waits for a reader to take the last lines."

ROOT: Final = "aitorrentd"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One rendered record."""

    at: float
    "Seconds since the epoch."
    level: str
    "debug, info, warning, error or critical."
    logger: str
    text: str
    "Message, with the traceback if any."

    @property
    def level_number(self) -> int:
        """The level as a number of the logging module."""
        return level_number(self.level)


def level_number(name: str) -> int:
    """`info` is 20, and so on; unknown names count as debug."""
    return logging.getLevelNamesMapping().get(name.upper(), logging.DEBUG)


class Redactor:
    """Redacts secrets in text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Redact these as well from now on."""
        known = {*self._secrets, *(s for s in secrets if len(s) >= _MIN_SECRET_CHARS)}
        self._secrets = sorted(known, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """`text` without the secrets."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text


_MESSAGE: Final = logging.Formatter("%(message)s")


def rendered(record: logging.LogRecord, redactor: Redactor) -> LogLine:
    """The record as stored and shown."""
    try:
        text = redactor(_MESSAGE.format(record))
    except (TypeError, ValueError):
        # Its arguments are left out: they may contain anything.
        text = f"{redactor(str(record.msg))} [log call with wrong arguments]"
    if len(text) > _MAX_TEXT_CHARS:
        text = text[:_MAX_TEXT_CHARS] + " […]"
    return LogLine(record.created, record.levelname.lower(), record.name, text)


class LogRing(logging.Handler):
    """Keeps the last records and passes new ones to followers; thread-safe."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor
        self._lines: deque[LogLine] = deque(maxlen=RING_RECORDS)
        self._followers: list[_Follower] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        line = rendered(record, self._redactor)
        self._lines.append(line)
        for follower in list(self._followers):
            follower.offer(line)

    def lines(self) -> list[LogLine]:
        """Stored records, oldest first."""
        return list(self._lines)

    @contextlib.contextmanager
    def followed(self) -> Iterator[AsyncIterator[LogLine]]:
        """New records while the block runs; a follower that falls far behind is told its losses."""
        follower = _Follower(asyncio.get_running_loop())
        self._followers.append(follower)
        try:
            yield follower.lines()
        finally:
            self._followers.remove(follower)


class _Follower:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queued: deque[LogLine] = deque(maxlen=_MAX_QUEUED)
        self._lost = 0
        self._wake = asyncio.Event()

    def offer(self, line: LogLine) -> None:
        if len(self._queued) == _MAX_QUEUED:
            self._lost += 1
        self._queued.append(line)
        with contextlib.suppress(RuntimeError):  # the loop is closed: there are no readers left
            self._loop.call_soon_threadsafe(self._wake.set)

    async def lines(self) -> AsyncIterator[LogLine]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._lost:
                text = f"{self._lost} log records were lost because this reader is too slow"
                self._lost = 0
                yield LogLine(time.time(), "warning", ROOT, text)
            while self._queued:
                yield self._queued.popleft()


class Output(logging.Handler):
    """Writes rendered lines to a stream without ever waiting for its reader.

    Records that the reader does not take are dropped and counted. A closed stream is not an error.
    """

    def __init__(self, redactor: Redactor, stream: TextIO, style: str) -> None:
        super().__init__()
        self._redactor = redactor
        self._stream = stream
        self._render = {"json": _as_json, "journal": _as_journal}.get(style, _as_text)
        self._log = logging.getLogger(ROOT)
        self._is_behind = False
        try:
            self.writer: LineWriter | None = LineWriter(stream.fileno(), resumed=self._resumed)
        except OSError:
            self.writer = None  # an in-memory stream

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record."""
        text = self._render(rendered(record, self._redactor)) + "\n"
        if self.writer is None:
            with contextlib.suppress(ValueError):  # it was closed
                self._stream.write(text)
            return
        is_taken = self.writer.put(text.encode(self._stream.encoding, "backslashreplace"))
        if not is_taken and not self._is_behind:
            self._is_behind = True
            # For `aitorrentctl logs`, where the records still arrive.
            self._log.warning("the log output is not being read; dropping records from it")

    def _resumed(self, dropped: int) -> None:
        self._is_behind = False
        text = "%d log records were dropped because the log output was not read"
        self._log.warning(text, dropped)

    def problem(self) -> HealthWarning | None:
        """What is wrong with the output now."""
        if self.writer is None or not self.writer.dropped:
            return None
        why = f"cannot be written ({self.writer.failure})" if self.writer.failure else "is not read"
        text = f"the log output {why}; {self.writer.dropped} records are missing there"
        return HealthWarning("log_output", f"{text}; the last ones are in: aitorrentctl logs")

    def finish(self, timeout_s: float) -> None:
        """Wait until the queue is written, at most `timeout_s`."""
        if self.writer is not None:
            self.writer.flush(timeout_s)


_PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def _as_journal(line: LogLine) -> str:
    prefix = f"<{_PRIORITY.get(line.level, 6)}>"
    # Every line of a traceback needs its own prefix (sd-daemon(3)).
    return "\n".join(f"{prefix}{t}" for t in f"{_source(line)}{line.text}".splitlines())


def _as_text(line: LogLine) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
    return f"{at}.{int(line.at * 1000) % 1000:03d} {line.level:<7} {_source(line)}{line.text}"


def _as_json(line: LogLine) -> str:
    return json.dumps(
        {"at": round(line.at, 6), "level": line.level, "logger": line.logger, "text": line.text},
        ensure_ascii=False,
    )


def _source(line: LogLine) -> str:
    name = line.logger.removeprefix(ROOT).removeprefix(".")
    return f"{name}: " if name else ""


@contextlib.contextmanager
def capture(redactor: Redactor, logger: logging.Logger) -> Iterator[LogRing]:
    """A ring buffer that keeps the records of `logger` and its children while the block runs."""
    ring = LogRing(redactor)
    logger.addHandler(ring)
    try:
        yield ring
    finally:
        logger.removeHandler(ring)


@contextlib.contextmanager
def output(
    redactor: Redactor,
    *,
    level: str,
    style: Literal["text", "json"],
    stream: TextIO | None = None,
    quiet: Sequence[str] = ("httpx", "httpcore", "asyncio"),
) -> Iterator[Output]:
    """Write the whole process's records to `stream` (standard error) while the block runs.

    Libraries in `quiet` log only warnings and errors. The journal gets priority prefixes. Output
    printed meanwhile, by a plugin for instance, never blocks either.
    """
    target = stream or sys.stderr
    journal = style == "text" and target is sys.stderr and is_journal(2)
    handler = Output(redactor, target, "journal" if journal else style)
    root = logging.getLogger()
    root.addHandler(handler)
    set_level(level)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    try:
        with contextlib.ExitStack() as stack:
            if handler.writer is not None and stream is None:
                _queue_prints(stack, handler.writer)
            yield handler
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        if handler.writer is not None:
            handler.writer.close(_LAST_LINES_S)


def _queue_prints(stack: contextlib.ExitStack, errors: LineWriter) -> None:
    """Queue printed output until `stack` closes."""
    stack.enter_context(contextlib.redirect_stderr(QueuedStream(errors, sys.stderr)))
    if sys.stdout is None:  # closed by our parent process
        return
    try:
        printed = LineWriter(sys.stdout.fileno())
    except OSError:
        return
    stack.callback(printed.close, _LAST_LINES_S)
    stack.enter_context(contextlib.redirect_stdout(QueuedStream(printed, sys.stdout)))


def set_level(level: str) -> None:
    """The minimum level of aitorrentd's records: `debug`, `info`, `warning` or `error`."""
    logging.getLogger(ROOT).setLevel(level_number(level))
