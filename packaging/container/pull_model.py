"""Pull the model that a Modelfile names into Ollama, with progress, and create a model from it.

    pull_model.py [--url URL] --name NAME MODELFILE

Follows docs/api.md of Ollama 0.5.5 or newer: POST /api/pull and /api/create. Uses only the standard
library. An interrupted pull is retried, and Ollama resumes it. Exits with 0 if the model is
available, 1 if not, 64 on wrong usage or an invalid Modelfile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

EX_USAGE: Final = 64
START_S: Final = 120.0
# Ollama is silent while it verifies a pull, which takes minutes for a large model.
SILENCE_S: Final = 900.0
ANSWER_S: Final = 30.0
ATTEMPTS: Final = 6
MAX_LINE_BYTES: Final = 1 << 20
MAX_BODY_BYTES: Final = 32 << 20
BAR: Final = 30
# A terminal shows every change; a log gets a line per 5 %, and one every 15 s in between.
STEP_PERCENT: Final = 5
QUIET_S: Final = 15.0
_SAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class PullError(Exception):
    """An error to show to the user, in one line."""


class BrokenOff(PullError):
    """The connection broke; a retry may help."""


class ModelfileError(PullError):
    """The Modelfile is invalid."""


def parse_modelfile(text: str) -> dict[str, Any]:
    """The fields of /api/create that a Modelfile sets; `from` is the model to pull.

    Raises:
        ModelfileError: an instruction that this script does not know, or no FROM.
    """
    fields: dict[str, Any] = {}
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if not word or word.startswith("#"):
            continue
        key = word.lower()
        if key == "parameter":
            name, _, value = rest.partition(" ")
            if not name or not value.strip():
                raise ModelfileError(f"Modelfile line {number}: write PARAMETER NAME VALUE")
            _set_parameter(fields.setdefault("parameters", {}), name, _value(value.strip()))
        elif key in ("from", "system", "template"):
            fields[key] = _text(rest, lines, number)
        else:
            raise ModelfileError(
                f"Modelfile line {number}: {word[:32]} is none of FROM, PARAMETER, SYSTEM, TEMPLATE"
            )
    if not fields.get("from"):
        raise ModelfileError("the Modelfile has no FROM; write FROM and the model to pull")
    return fields


def _text(first: str, lines: Iterator[tuple[int, str]], number: int) -> str:
    if not first.startswith('"""'):
        return first.strip('"')
    text = first[3:]
    while '"""' not in text:
        following = next(lines, None)
        if following is None:
            raise ModelfileError(f'Modelfile line {number}: its """ is never closed')
        text += f"\n{following[1]}"
    return text.partition('"""')[0].strip()


def _value(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text.strip('"'))


def _set_parameter(parameters: dict[str, Any], name: str, value: Any) -> None:
    # Only `stop` may be given more than once; it is a list in the API.
    if name == "stop":
        parameters.setdefault("stop", []).append(value)
    else:
        parameters[name] = value


def size_text(size_bytes: float) -> str:
    """A human-readable size."""
    for unit in ("B", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


class Progress:
    """Shows the progress of a pull: a bar on a terminal, occasional lines in a log."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._is_terminal = out.isatty()
        self._layers: dict[str, tuple[int, int]] = {}
        self._status = ""
        self._shown_percent = -STEP_PERCENT
        self._shown_at = self._started_at = clock()
        self._began_with = -1
        self._is_open = False

    def line(self, text: str) -> None:
        """Write a separate line."""
        if self._is_open:
            self._out.write("\n")
            self._is_open = False
        self._out.write(f"{_SAFE.sub(' ', text)}\n")
        self._out.flush()

    def update(self, message: dict[str, Any]) -> None:
        """Process a line from /api/pull."""
        total, done = message.get("total"), message.get("completed", 0)
        if isinstance(total, int) and isinstance(done, int) and total > 0:
            self._layers[str(message.get("digest", ""))] = (max(0, min(done, total)), total)
            self._bar()
        elif (status := str(message.get("status", ""))[:200]) and status != self._status:
            self._status = status
            self.line(status)

    def _bar(self) -> None:
        done = sum(part for part, _ in self._layers.values())
        total = sum(whole for _, whole in self._layers.values())
        now = self._clock()
        if self._began_with < 0:
            # Bytes from an earlier attempt do not count towards the speed.
            self._began_with, self._started_at = done, now
        percent = done * 100 // total
        step = percent - percent % STEP_PERCENT
        if not self._is_terminal and step <= self._shown_percent and now - self._shown_at < QUIET_S:
            return
        self._shown_percent, self._shown_at = step, now
        took_s = now - self._started_at
        speed = f", {size_text((done - self._began_with) / took_s)}/s" if took_s >= 1 else ""
        full = done * BAR // total
        bar = f"[{'#' * full}{'.' * (BAR - full)}] {percent:3} %"
        text = f"{bar}  {size_text(done)} of {size_text(total)}{speed}"
        if self._is_terminal:
            self._out.write(f"\r{text}\x1b[K")
            self._is_open = True
        else:
            self._out.write(f"{text}\n")
        self._out.flush()


class Ollama:
    """The few Ollama requests needed here."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # The Ollama server is given explicitly: ignore proxies from the environment.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _open(self, path: str, body: dict[str, Any] | None, timeout_s: float) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, content, headers)
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as e:
            with e:
                text = e.read(MAX_LINE_BYTES)
            raise PullError(f"Ollama: {_error_text(text) or f'HTTP status {e.code}'}") from None
        except (OSError, http.client.HTTPException) as e:
            reason = getattr(e, "reason", e)
            raise BrokenOff(f"no answer from Ollama at {self.url}: {reason}") from None

    def models(self) -> set[str]:
        """Names of the models on the server.

        Raises:
            BrokenOff: it does not answer. PullError: with nonsense.
        """
        try:
            with self._open("/api/tags", None, ANSWER_S) as reply:
                found = json.loads(reply.read(MAX_BODY_BYTES))
            return {str(model["name"]) for model in found["models"]}
        except (OSError, http.client.HTTPException) as e:
            raise BrokenOff(f"no answer from Ollama at {self.url}: {e}") from None
        except (ValueError, LookupError, TypeError):
            raise PullError(f"the server at {self.url} is not Ollama") from None

    def lines(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The streamed responses to a request, up to and including `success`.

        Raises:
            PullError: it reports an error. BrokenOff: the stream ended before success.
        """
        with self._open(path, body, SILENCE_S) as reply:
            while True:
                try:
                    line = reply.readline(MAX_LINE_BYTES)
                except (OSError, http.client.HTTPException) as e:
                    raise BrokenOff(f"the connection to Ollama ended: {e!r}") from None
                if not line:
                    raise BrokenOff("Ollama closed the stream early")
                try:
                    message = json.loads(line)
                except ValueError:
                    raise BrokenOff("Ollama sent a line that is not JSON") from None
                if not isinstance(message, dict):
                    raise PullError("Ollama sent a line that is not a JSON object")
                if "error" in message:
                    raise PullError(f"Ollama: {_error_text(line)}")
                yield message
                if message.get("status") == "success":
                    return


def _error_text(body: bytes) -> str:
    try:
        found = json.loads(body)
        return str(found["error"])[:500]
    except (ValueError, LookupError, TypeError):
        return body.decode("utf-8", "replace").strip()[:500]


Pause = Callable[[float], object]


def wait_for_server(ollama: Ollama, progress: Progress, pause: Pause) -> set[str]:
    """The server's models, once it answers.

    Raises:
        PullError: it does not within two minutes.
    """
    deadline = time.monotonic() + START_S
    is_said = False
    while True:
        try:
            return ollama.models()
        except BrokenOff as e:
            if time.monotonic() > deadline:
                raise PullError(f"{e}; is the container `ollama` running?") from None
            if not is_said:
                progress.line(f"Waiting for Ollama at {ollama.url}")
                is_said = True
        pause(1.0)


def pull(ollama: Ollama, model: str, progress: Progress, pause: Pause) -> None:
    """Pull `model`, resuming after a broken connection.

    Raises:
        PullError: Ollama says why not, or it broke off too often.
    """
    progress.line(f"Pulling {model}")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            for message in ollama.lines("/api/pull", {"model": model, "stream": True}):
                progress.update(message)
            return
        except BrokenOff as e:
            if attempt == ATTEMPTS:
                raise PullError(f"{e}; gave up after {ATTEMPTS} attempts") from None
            wait_s = 2.0 ** (attempt - 1)
            progress.line(f"{e}; retrying in {wait_s:.0f} s")
            pause(wait_s)


def main(argv: list[str] | None = None, pause: Pause | None = None) -> int:
    """Run the program; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--url", default="http://127.0.0.1:11434", help="Ollama's base URL")
    parser.add_argument("--name", required=True, help="name of the model to create")
    parser.add_argument("modelfile", type=Path)
    args = parser.parse_args(argv)
    pause = pause or threading.Event().wait
    progress = Progress(sys.stdout)
    try:
        try:
            fields = parse_modelfile(args.modelfile.read_text())
        except (OSError, UnicodeDecodeError) as e:
            raise ModelfileError(f"cannot read {args.modelfile}: {e}") from None
        base = fields["from"]
        ollama = Ollama(args.url)
        # Ollama adds the tag `:latest` to a model without one.
        if (base if ":" in base else f"{base}:latest") in wait_for_server(ollama, progress, pause):
            progress.line(f"{base} is already present")
        else:
            pull(ollama, base, progress, pause)
        for message in ollama.lines("/api/create", {"model": args.name, **fields, "stream": True}):
            progress.update(message)
        progress.line(f"{args.name} is ready")
    except PullError as e:
        sys.stderr.write(f"pull_model: {_SAFE.sub(' ', str(e))}\n")
        return EX_USAGE if isinstance(e, ModelfileError) else 1
    return 0


if __name__ == "__main__":
    # Process 1 of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
