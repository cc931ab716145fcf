"""`events`, `logs`: follow what happens in the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import clean, styled, time_text
from aitorrentd.exit_codes import ExitCode

_GRACE_S = 1.0  # the daemon ends the stream in time; this is for a hanging one
_LEVEL_STYLE = {"error": "red", "critical": "red", "warning": "yellow", "debug": "dim"}


def events(
    topics: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only these topics: peer.connected, or peer. for all peer events.", metavar="TOPIC"
        ),
    ] = None,
) -> None:
    """Follow the node's events until Ctrl-C or for --timeout seconds.

    Exits with 75 when no event arrives in that time.
    """
    summary = _follow("node.events", {"topics": list(topics or [])}, _render_event)
    if summary.get("dropped"):
        toolkit.fail("events were lost because this reader is too slow", ExitCode.TRY_LATER)


def _follow(
    method: str, params: Mapping[str, Any], render: Callable[[dict[str, Any]], str | None]
) -> dict[str, Any]:
    """Show a stream that ends with Ctrl-C, or after --timeout; returns its summary."""
    limit_s = toolkit.options.timeout
    silence_s = None if limit_s is None else limit_s + _GRACE_S
    with toolkit.connect() as client:
        stream = client.stream(method, params, limit_s=limit_s, timeout=silence_s)
        try:
            return toolkit.emit_stream(stream, render)
        except toolkit.AitorrentError as e:
            if e.code != "timeout" or limit_s is None:
                raise
            if not stream.count:
                toolkit.fail(f"no event within {limit_s:g} s", ExitCode.TRY_LATER)
            return stream.summary


def _render_event(item: Mapping[str, Any]) -> str:
    event = item.get("event", {})
    parts = " ".join(f"{clean(k)}={_short(v)}" for k, v in event.items())
    return f"{time_text(item.get('at', 0))} {styled(clean(item.get('topic', '')), 'bold')} {parts}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return clean(value) if isinstance(value, str) else toolkit.json_text(value)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow new lines.")] = False,
    plugin: Annotated[str, typer.Option(help="Only lines from this plugin.", metavar="NAME")] = "",
    level: Annotated[
        str,
        typer.Option(help="Minimum level: debug, info, warning or error.", metavar="LEVEL"),
    ] = "info",
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="Number of past lines to show.", metavar="N")
    ] = 200,
) -> None:
    """Show the daemon's log.

    With --follow, runs until Ctrl-C or for --timeout seconds; exits with 75 if no line was
    logged.
    """
    params: dict[str, Any] = {"follow": follow, "level": level.lower(), "lines": lines}
    if plugin:
        params["plugin"] = plugin
    if follow:
        _follow("node.logs", params, _render_line)
        return
    with toolkit.connect() as client:
        toolkit.emit_stream(client.stream("node.logs", params), _render_line)


def _render_line(item: Mapping[str, Any]) -> str:
    level = str(item.get("level", "")).lower()
    logger = clean(item.get("logger", "")).removeprefix("aitorrentd.")
    first, *more = str(item.get("text", "")).splitlines() or [""]
    head = f"{time_text(item.get('at', 0))} {styled(f'{level:<7}', _LEVEL_STYLE.get(level, 'dim'))}"
    return "\n".join([f"{head} {logger}: {clean(first)}", *(f"    {clean(line)}" for line in more)])


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("events", epilog=toolkit.examples("events", "events peer. --timeout 60"))(events)
    app.command(
        "logs", epilog=toolkit.examples("logs --follow", "logs --plugin transport --level warning")
    )(logs)
