"""`aitorrentctl env`, `launch` and `mcp`: programs of others, pointed at the node."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from aitorrent_gateway.launching.programs import PROGRAMS, VARIABLES, Place, reachable
from aitorrentd.cli import toolkit

COMMANDS = {
    "env": "Print what programs need to use the node, for a shell",
    "launch": "Start a coding agent that uses the node",
    "mcp": "Serve MCP on standard input and output",
}
_TOKEN: Final = "TOKEN"
"What stands for the token in what is only shown."
_HELP: Final = {
    "env": f'{COMMANDS["env"]}.\n\nA shell takes them by:\n\neval "$(aitorrentctl env openai)"\n\n'
    "If the node requires a token, env creates one, valid for 30 days.",
    "launch": f"{COMMANDS['launch']}.\n\nThe program finds the node by its environment and"
    " arguments; its own files stay as they are. Options for it follow after --. If the node"
    " requires a token, launch creates one, valid for 30 days. With --json, launch starts and"
    " creates nothing, and shows what it would start.",
    "mcp": f"{COMMANDS['mcp']}.\n\nFor the settings of a client such as Claude Code or Claude"
    " Desktop, which starts it. What its tools may do depends on the role of this user, as for all"
    " commands.",
}
_Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Address of this node, if its certificate has another name (default: as it says).",
        show_default=False,
    ),
]


class Api(StrEnum):
    """An API of the node."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    ANTHROPIC = "anthropic"


def register(app: typer.Typer) -> None:
    """Add the commands to `aitorrentctl`."""
    app.command(
        "env",
        help=_HELP["env"],
        epilog=toolkit.examples("env openai", "env anthropic --json"),
    )(env)
    app.command(
        "launch",
        help=_HELP["launch"],
        epilog=toolkit.examples("launch claude", "launch codex --model qwen3-8b -- exec hello"),
    )(launch)
    app.command("mcp", help=_HELP["mcp"], epilog=toolkit.examples("mcp"))(mcp)


def env(
    api: Annotated[Api, typer.Argument(help="Which API the programs speak.")],
    url: _Url = None,
) -> None:
    """Print the variables."""
    from aitorrent_gateway.launching.cli_finding import find_place, with_token

    with toolkit.connect() as client:
        place, needs_token = find_place(client, url)
        if needs_token:
            place = with_token(client, place, f"env-{api}")
    toolkit.emit(
        VARIABLES[api](place),
        lambda shown: "\n".join(f"export {k}={shlex.quote(v)}" for k, v in shown.items()),
    )


def launch(
    program: Annotated[str, typer.Argument(help=f"One of {', '.join(PROGRAMS)}.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments for it.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Which model (default: the only one).", show_default=False
        ),
    ] = None,
    url: _Url = None,
) -> None:
    """Start a program in place of this one."""
    from aitorrent_gateway.launching.cli_finding import find_model, find_place, with_token

    found = PROGRAMS.get(program)
    if found is None:
        toolkit.fail(
            f"cannot start {program!r}; programs are {', '.join(PROGRAMS)}. For others:"
            " aitorrentctl env",
            toolkit.ExitCode.USAGE,
        )
    path = shutil.which(found.command)
    if path is None and not toolkit.options.json:
        toolkit.fail(f"{found.command} is not installed; {found.install}")
    with toolkit.connect() as client:
        chosen = find_model(client, model)
        place, needs_token = find_place(client, url)
        if needs_token and toolkit.options.json:
            place = Place(place.url, _TOKEN)
        elif needs_token:
            place = with_token(client, place, f"launch-{program}")
    if chosen.context_length is not None and chosen.context_length < found.least_context:
        toolkit.warn(
            f"{toolkit.clean(chosen.name)} has a context of {chosen.context_length} tokens;"
            f" {program} wants {found.least_context} or more"
        )
    start = found.start(place, chosen)
    words = [*start.arguments, *(arguments or ())]
    if path is None or toolkit.options.json:
        shown: dict[str, Any] = {"program": path or found.command, "arguments": words}
        shown |= {"installed": path is not None, "needs_token": needs_token}
        shown |= {"environment": dict(start.environment), "unset": list(start.unset)}
        toolkit.emit(shown, lambda _: None)
        return
    environ = {k: v for k, v in os.environ.items() if k not in start.unset}
    environ |= reachable(environ, place)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(path, [found.command, *words], {**environ, **start.environment})
    except OSError as e:
        toolkit.fail(f"cannot start {path}: {e.strerror}")


def mcp() -> None:
    """Serve MCP."""
    import asyncio

    from aitorrent_gateway.mcp import cli_bridge

    asyncio.run(cli_bridge.run())
