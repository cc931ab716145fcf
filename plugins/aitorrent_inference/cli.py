"""`models`, `ask`, `chat`: the inference plugin's commands of `aitorrentctl`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aitorrent_inference.cli_answer import message, report, stream_answer
from aitorrent_inference.cli_options import (
    Backend,
    Format,
    FrequencyPenalty,
    MaxTokens,
    MinP,
    Model,
    NumCtx,
    PresencePenalty,
    RepeatPenalty,
    Seed,
    Stop,
    System,
    Temperature,
    Thinking,
    TopK,
    TopP,
    Wait,
)
from aitorrentd.cli import toolkit

COMMANDS: Final = {
    "models": "List available models.",
    "ask": "Send a prompt and stream the answer.",
    "chat": "Chat with a model.",
}
_MAX_STDIN_CHARS: Final = 4 * 1024 * 1024

_WAIT_S: Final = 120.0

_COLUMNS: Final[list[toolkit.Column]] = [
    ("name", "MODEL"),
    ("state", "STATE"),
    ("backend", "BACKEND", lambda name: "peer" if name.startswith("peer:") else name),
    ("size_bytes", "SIZE", toolkit.bytes_text),
    ("family", "FAMILY", lambda family: family or "-"),
    ("context_length", "CONTEXT"),
    ("detail", "DETAIL", lambda detail: detail or "-"),
]


def models() -> None:
    """List the models that can answer now, by this node and by connected peers, and those that are
    being loaded or lack layers.

    A name in quotes is what a node calls itself; only the id before it is proof of who it is.
    """
    with toolkit.connect_when_up() as client:
        reply = client.call("inference.models")
    toolkit.emit(reply, _render_models)


def _render_models(reply: Mapping[str, Any]) -> str:
    rows = [{**row, "state": "ready"} for row in reply["models"]]
    rows += [{**row, "state": _state(row)} for row in reply.get("pending", [])]
    lines = []
    if any(row["state"] == "loading" for row in reply.get("pending", [])) and not reply["models"]:
        lines.append("No model is ready yet; `ask` waits for one that is loading.")
    elif rows and not reply["models"]:
        lines.append("No model is ready:")
    elif not rows:
        lines.append("No model is available; run `aitorrentctl doctor` to find out why.")
    if rows:
        drop = ("family", "context_length", "size_bytes")
        lines.append(toolkit.table(rows, _COLUMNS, drop=drop))
    return "\n".join(lines)


def _state(row: Mapping[str, Any]) -> str:
    """The state, as `loading 43%` if the progress is known."""
    total = row.get("total_bytes")
    if row["state"] != "loading" or not total:
        return str(row["state"])
    return f"loading {row['done_bytes'] / total:.0%}"


def ask(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="The prompt; `-` or nothing = standard input.", metavar="PROMPT"),
    ] = None,
    model: Model = "",
    system: System = "",
    thinking: Thinking = False,
    wait: Wait = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    num_ctx: NumCtx = None,
    backend: Backend = "",
    format: Format = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Send the prompt verbatim, without the chat template.")
    ] = False,
    parallel: Annotated[
        int,
        typer.Option(
            min=1,
            max=16,
            help="Ask this many backends at once; the first to respond answers.",
            metavar="COUNT",
        ),
    ] = 1,
    discover: Annotated[
        bool,
        typer.Option("--discover", help="Use only peers found through the directory."),
    ] = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repeat_penalty: RepeatPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    seed: Seed = None,
) -> None:
    """Send a prompt and stream the answer; statistics follow on stderr.

    A name in quotes is what a node calls itself; only the id before it is proof of who it is.
    """
    text = _prompt(prompt)
    params: dict[str, Any] = {
        "model": model,
        "params": given(
            temperature=temperature,
            top_p=top_p or None,
            top_k=top_k,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
            max_tokens=max_tokens,
            num_ctx=num_ctx,
            stop=stop or None,
            format=_format(format),
        ),
        "parallel": parallel,
        "wait_s": _WAIT_S if wait is None else wait,
        "wait_incomplete": wait is not None,
        "thinking": thinking,
    }
    if backend and discover:
        toolkit.fail("--backend and --discover are mutually exclusive", toolkit.ExitCode.USAGE)
    if backend:
        params["backend"] = backend
    if discover:
        params["discover"] = True
    if system and raw:
        toolkit.fail("--system and --raw are mutually exclusive", toolkit.ExitCode.USAGE)
    if system:
        params["messages"] = [message("system", system), message("user", text)]
    else:
        params["prompt"] = text
        params["raw"] = raw
    pieces: list[str] = []
    summary = stream_answer(params, pieces)
    report(summary)


def _prompt(words: list[str] | None) -> str:
    if words and words != ["-"]:
        if not (given := " ".join(words)).strip():
            toolkit.fail("the prompt is empty", toolkit.ExitCode.USAGE)
        return given
    if not words and sys.stdin.isatty():
        toolkit.fail("pass a prompt, or - to read it from standard input", toolkit.ExitCode.USAGE)
    text = toolkit.read_stdin(_MAX_STDIN_CHARS)
    if not text.strip():
        toolkit.fail("standard input is empty", toolkit.ExitCode.USAGE)
    return text.rstrip("\n")


def _format(text: str) -> Any:
    """`json`, or the JSON Schema in the file of that name; None for an empty text."""
    if text in ("", "json"):
        return text or None
    try:
        found = json.loads(Path(text).read_bytes())
    except (OSError, ValueError) as e:
        toolkit.fail(f"--format: {text} has no JSON Schema: {e}", toolkit.ExitCode.USAGE)
    if not isinstance(found, dict):
        toolkit.fail(f"--format: {text} must contain a JSON object", toolkit.ExitCode.USAGE)
    return found


def given(**params: Any) -> dict[str, Any]:
    """The parameters that are set."""
    return {name: value for name, value in params.items() if value is not None}


def chat(
    model: Model = "",
    system: System = "",
    thinking: Thinking = False,
    wait: Wait = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    num_ctx: NumCtx = None,
    backend: Backend = "",
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    repeat_penalty: RepeatPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
    seed: Seed = None,
) -> None:
    """Chat with a model.

    `new` starts over; `exit`, `quit` or Ctrl-D ends the chat; Ctrl-C stops an answer. A line that
    ends with a backslash continues on the next line.
    """
    from aitorrent_inference.cli_chat import Conversation, talk

    params: dict[str, Any] = {
        "model": model,
        "params": given(
            temperature=temperature,
            top_p=top_p or None,
            top_k=top_k,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
            max_tokens=max_tokens,
            num_ctx=num_ctx,
            stop=stop or None,
        ),
        "wait_s": _WAIT_S if wait is None else wait,
        "wait_incomplete": wait is not None,
        "thinking": thinking,
    }
    if backend:
        params["backend"] = backend
    talk(Conversation(params, system))


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("models", epilog=toolkit.examples("models", "models --json"))(models)
    app.command(
        "ask",
        epilog=toolkit.examples(
            'ask "What is a torrent?"',
            'git diff | aitorrentctl ask --system "Review this change" -',
        ),
    )(ask)
    app.command("chat", epilog=toolkit.examples("chat", "chat --model demo --temperature 0"))(chat)
