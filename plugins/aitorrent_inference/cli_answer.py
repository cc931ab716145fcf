"""Command-line output of an answer: streamed text, cost, and the nodes that produced it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from aitorrentd.cli import toolkit

# Control characters and those that change text direction; tab and newline are allowed.
_UNSAFE: Final = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
    "\N{REPLACEMENT CHARACTER}",
)


# What a note advises, and the options for it.
_REMEDIES: Final = {"ask for the thinking": "--thinking", "max_tokens": "--max-tokens"}


def message(role: str, content: str) -> dict[str, str]:
    """A turn of a conversation."""
    return {"role": role, "content": content}


def stream_answer(params: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    """Print the answer as it streams and return its summary.

    `pieces` collects the text, so that partial output survives an error or Ctrl-C. With --json each
    piece is a line and the summary is the last one.
    """
    is_terminal = sys.stdout.isatty()
    with toolkit.connect_when_up() as client, _Told(pieces) as told:
        stream = client.stream(
            "inference.generate",
            params,
            timeout=toolkit.options.timeout,
            progress=told,
        )
        try:
            with stream:
                for item in stream:
                    told.bar.clear()
                    pieces.append(str(item.get("text", "")))
                    if toolkit.options.json:
                        toolkit.echo(toolkit.json_text(item))
                        continue
                    if thought := str(item.get("thinking", "")):
                        told.think(thought)
                    if text := pieces[-1]:
                        told.end_thinking()
                        toolkit.echo(text.translate(_UNSAFE) if is_terminal else text, end="")
        finally:
            if not toolkit.options.json and pieces and not "".join(pieces[-2:]).endswith("\n"):
                toolkit.echo()
    if toolkit.options.json:
        toolkit.echo(toolkit.json_text(stream.summary))
    return stream.summary


class _Told:
    """Shows notices from the daemon on stderr: load progress as a bar on a terminal, elsewhere
    once; everything else on separate lines."""

    def __init__(self, pieces: list[str]) -> None:
        self.bar = toolkit.Progress()
        self._pieces = pieces
        self._has_said_loading = False
        self._thought = ""

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.clear()
        self.end_thinking()

    def think(self, text: str) -> None:
        """Show a piece of the model's reasoning on stderr."""
        self._thought = text
        sys.stderr.write(text.translate(_UNSAFE) if sys.stderr.isatty() else text)
        sys.stderr.flush()

    def end_thinking(self) -> None:
        """End the last line of reasoning before other output."""
        if self._thought and not self._thought.endswith("\n"):
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._thought = ""

    def __call__(self, state: Mapping[str, Any]) -> None:
        is_loading = state.get("unit") == "B"
        if is_loading and self.bar.is_shown:
            self.bar(state)
        elif not (is_loading and self._has_said_loading):
            self._line(str(state.get("text", "")))
        self._has_said_loading = self._has_said_loading or is_loading

    def _line(self, text: str) -> None:
        self.bar.clear()
        self.end_thinking()
        if sys.stdout.isatty() and self._pieces and not self._pieces[-1].endswith("\n"):
            toolkit.echo()
        sys.stderr.write(f"[{toolkit.clean(text)}]\n")
        sys.stderr.flush()


def report(summary: Mapping[str, Any]) -> None:
    """Print the cost and origin of an answer on stderr."""
    if toolkit.options.json:
        return
    tokens = summary.get("completion_tokens") or 0
    parts = [f"{tokens} token{'' if tokens == 1 else 's'}"] if tokens else []
    if summary.get("tokens_per_s") is not None:
        parts.append(f"{summary['tokens_per_s']:.1f} tokens/s")
    parts.append(f"first after {toolkit.duration_text(summary.get('ttft_s') or 0)}")
    if summary.get("reason") == "length":
        parts.append("stopped at the token limit")
    names = summary.get("names", {})
    answered_by = _who(str(summary.get("backend", "")), names)
    parts.append(f"{toolkit.clean(summary.get('model', ''))} by {toolkit.clean(answered_by)}")
    lines = [", ".join(parts), *stage_lines(summary)]
    if note := toolkit.clean(summary.get("note", "")):
        options = [option for words, option in _REMEDIES.items() if words in note]
        lines.insert(0, f"{note} ({', '.join(options)})" if options else note)
    if warning := toolkit.clean(summary.get("warning", "")):
        lines.insert(0, f"warning: {warning}")
    sys.stdout.flush()
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def stage_lines(summary: Mapping[str, Any]) -> list[str]:
    """Which node held which layers, aligned; the end of a range is one past its last layer.

    Names are in quotes, which no name contains, so a name cannot imitate other output.
    """
    rows = [(f"{s['start']}-{s['end']}", str(s["peer"])) for s in summary.get("stages", [])]
    width = max((len(layers) for layers, _ in rows), default=0)
    here, names = summary.get("node"), summary.get("names", {})
    return [
        f"layers {layers:<{width}}  {toolkit.clean(toolkit.called(peer, str(names.get(peer, ''))))}"
        + (" (this node)" if peer == here else "")
        for layers, peer in rows
    ]


def _who(backend: str, names: Mapping[str, str]) -> str:
    if not backend.startswith("peer:"):
        return backend
    peer = backend.removeprefix("peer:")
    return f"peer {toolkit.called(peer, str(names.get(peer, '')))}"
