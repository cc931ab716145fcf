"""`rpc`, `call`: every method of the control API, from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import Progress, clean
from aitorrentd.exit_codes import ExitCode
from aitorrentd.system.words import unreadable

_MAX_STDIN_CHARS: Final = 16 * 1024 * 1024


def list_(
    prefix: Annotated[
        str, typer.Argument(help="Only methods whose name starts with this.", metavar="PREFIX")
    ] = "",
) -> None:
    """List the methods."""
    with toolkit.connect() as client:
        reply = client.call("rpc.list", {"prefix": prefix})
    if not reply["methods"]:
        toolkit.fail(f"no method starts with {clean(prefix)}; see aitorrentctl rpc list")
    columns: list[toolkit.Column] = [
        ("name", "METHOD"),
        ("role", "ROLE"),
        ("stream", "STREAM"),
        ("plugin", "FROM"),
        ("summary", "SUMMARY"),
    ]
    toolkit.emit(reply, lambda r: toolkit.table(r["methods"], columns))


def describe(
    method: Annotated[
        str, typer.Argument(help="A method, or the start of its name.", metavar="METHOD")
    ] = "",
) -> None:
    """Describe methods with their parameters and results."""
    with toolkit.connect() as client:
        reply = client.call("rpc.describe", {"prefix": method})
    if not reply["methods"]:
        toolkit.fail(f"no method starts with {clean(method)}; see aitorrentctl rpc list")
    toolkit.emit(reply, lambda r: "\n\n".join(_render(m) for m in r["methods"]))


def _render(method: Mapping[str, Any]) -> str:
    kind = "stream of " if method.get("stream") else ""
    lines = [
        toolkit.styled(clean(method["name"]), "bold") + f"  {clean(method['summary'])}",
        f"  role {clean(method['role'])}, from {clean(method['plugin'])}, "
        f"since {clean(method['since'])}",
    ]
    for title, part in (("parameters", "params"), (f"result: {kind}map", "result")):
        rows = _properties(method.get(part) or {})
        if not rows:
            lines.append(f"  {title}: none")
            continue
        columns: list[toolkit.Column] = [
            ("name", "NAME"),
            ("type", "TYPE"),
            ("default", "DEFAULT"),
            ("text", "MEANING"),
        ]
        lines.append(f"  {title}")
        lines += [f"    {line}" for line in toolkit.table(rows, columns).splitlines()]
    return "\n".join(lines)


def _properties(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "type": _type(field),
            "default": "required" if name in required else toolkit.json_text(field.get("default")),
            "text": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return "|".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", "any"))


def call(
    method: Annotated[
        str, typer.Argument(help="A method name, as shown by `rpc list`.", metavar="METHOD")
    ],
    params: Annotated[
        list[str] | None,
        typer.Argument(
            help="Parameters; values are parsed as JSON if possible, else taken as text.",
            metavar="K=V",
        ),
    ] = None,
    stdin: Annotated[
        bool,
        typer.Option("--stdin", help="Also read parameters from standard input, as a JSON object."),
    ] = False,
) -> None:
    """Call any method of the control API and print its result as JSON."""
    values = _from_stdin() if stdin else {}
    for word in params or []:
        key, is_pair, text = word.partition("=")
        if not key or not is_pair:
            raise typer.BadParameter(f"{word!r} is not of the form key=value")
        values[key] = _value(text)
    with toolkit.connect() as client, Progress() as bar:
        # The answer shows whether it is a stream, so one round trip is enough.
        try:
            called = client.stream(method, values, timeout=toolkit.options.timeout, progress=bar)
        except UnicodeError as e:
            toolkit.fail(f"a parameter cannot be sent: {unreadable(e)}", ExitCode.USAGE)
        except (ValueError, TypeError, OverflowError):
            text = "a parameter is nested too deeply, or contains an integer of more than 64 bits"
            toolkit.fail(text, ExitCode.USAGE)
        with called as items:
            for item in items:
                bar.clear()
                toolkit.echo(toolkit.json_text(item))
        bar.clear()
        if items.result is not None:
            toolkit.echo(toolkit.json_text(items.result, indent=2))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _from_stdin() -> dict[str, Any]:
    try:
        found = json.loads(toolkit.read_stdin(_MAX_STDIN_CHARS))
    except (ValueError, RecursionError) as e:
        toolkit.fail(f"standard input is not JSON: {e}", ExitCode.USAGE)
    if not isinstance(found, dict):
        toolkit.fail('standard input is not a JSON object such as {"key": 1}', ExitCode.USAGE)
    return found


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="List and describe the methods of the control API.",
        no_args_is_help=True,
        epilog=toolkit.examples("rpc list", "rpc describe node.status"),
    )
    group.command("list", epilog=toolkit.examples("rpc list", "rpc list node."))(list_)
    group.command("describe", epilog=toolkit.examples("rpc describe node.status"))(describe)
    app.add_typer(group, name="rpc")
    app.command(
        "call",
        epilog=toolkit.examples(
            "call node.status",
            """echo '{"lines": 10}' | aitorrentctl call node.logs --stdin""",
        ),
    )(call)
