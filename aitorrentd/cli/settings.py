"""`config`: shows, checks, reads and changes the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import examples
from aitorrentd.exit_codes import ExitCode

Key = Annotated[str, typer.Argument(help="A key, such as plugins.transport.port.", metavar="KEY")]


def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Also show where each value comes from.")
    ] = False,
) -> None:
    """Show the effective configuration, secrets redacted.

    Unset settings are shown with their defaults, and marked.
    """
    with toolkit.connect() as client:
        toolkit.emit(client.call("config.show", {"origin": origin}), _render)


def _render(reply: Mapping[str, Any]) -> str:
    origins = reply.get("origins") or {}
    marks = {} if origins else dict.fromkeys(reply.get("unset", []), "  (default)")
    rows = [
        {
            "key": key,
            "value": toolkit.json_text(value) + marks.get(key, ""),
            "origin": origins.get(key),
        }
        for key, value in _leaves(reply["config"], "")
    ]
    columns: list[toolkit.Column] = [("key", "KEY"), ("value", "VALUE")]
    return toolkit.table(rows, [*columns, ("origin", "FROM")] if origins else columns)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


def check(
    file: Annotated[
        str, typer.Argument(help="The file to check (default: the daemon's).", metavar="FILE")
    ] = "",
) -> None:
    """Check the configuration files; needs no daemon.

    Exits with 78 if there is a problem.
    """
    reply = _checked_here(file) if file else _checked()
    toolkit.emit(reply, _render_problems)
    if reply["problems"]:
        raise typer.Exit(ExitCode.CONFIG)


def _checked() -> dict[str, Any]:
    from aitorrentd.control.client import NoAccess, NoDaemon

    try:
        with toolkit.connect() as client:
            return client.call("config.check")
    except (NoDaemon, NoAccess):
        return _checked_here("")


def _checked_here(file: str) -> dict[str, Any]:
    import asyncio

    from aitorrentd.config import Config, WrongSettings
    from aitorrentd.config.plugin_tables import all_problems
    from aitorrentd.errors import ConfigError
    from aitorrentd.system.paths import absolute
    from aitorrentd.system.streams import stdout_to_stderr

    files: Sequence[object] = [file] if file else []
    config: Config | ConfigError
    try:
        config = Config.load(absolute(Path(file)) if file else None, outside=True)
    except ConfigError as e:
        config = e
    if isinstance(config, Config | WrongSettings):
        files = config.files
    with stdout_to_stderr():  # it imports plugins
        problems = asyncio.run(all_problems(config))
    return {"files": [str(f) for f in files], "problems": problems}


def _render_problems(reply: Mapping[str, Any]) -> str:
    if reply["problems"]:
        return "\n".join(toolkit.clean(problem) for problem in reply["problems"])
    files = ", ".join(toolkit.clean(f) for f in reply["files"]) or "no file, defaults only"
    return f"no problems: {files}"


def get(key: Key) -> None:
    """Print the value of a setting."""
    with toolkit.connect() as client:
        toolkit.emit(client.call("config.get", {"key": key}), _render_value)


def _render_value(reply: Mapping[str, Any]) -> str:
    value = reply["value"]
    return toolkit.clean(value) if isinstance(value, str) else toolkit.json_text(value, indent=2)


def set_(
    key: Key,
    value: Annotated[
        str,
        typer.Argument(help="The new value, parsed as YAML: 8468, true, [a, b].", metavar="VALUE"),
    ],
) -> None:
    """Change a setting in a drop-in beside the configuration file."""
    with toolkit.connect() as client:
        toolkit.emit(client.call("config.set", {"key": key, "value": value}), _render_change)


def reload() -> None:
    """Reload the configuration files and apply what can change live."""
    with toolkit.connect() as client:
        toolkit.emit(client.call("node.reload"), _render_reload)


def _render_reload(reply: Mapping[str, Any]) -> str:
    return "\n".join(_in_force(reply)) or "nothing changed"


def _render_change(reply: Mapping[str, Any]) -> str:
    written = f"{toolkit.clean(reply['key'])} written to {toolkit.clean(reply['file'])}"
    return "\n".join([written, *_in_force(reply)])


def _in_force(reply: Mapping[str, Any]) -> list[str]:
    """Lines that say what takes effect now and what after a restart."""
    lines = []
    for applied in reply.get("applied") or []:
        section, _, rest = str(applied).partition(".")
        plugin, _, setting = rest.partition(".")
        is_restart = section == "plugins" and setting != "enabled"
        restarted = f"; plugin {toolkit.clean(plugin)} was restarted for it" if is_restart else ""
        lines.append(f"applied{restarted}: {toolkit.clean(applied)}")
    lines += [f"but {toolkit.clean(text)}" for text in reply.get("not_running") or []]
    if reply.get("restart"):
        from aitorrentd.system import unit

        how = unit.SYSTEM.restart_remedy(toolkit.socket_path())
        keys = ", ".join(toolkit.clean(key) for key in reply["restart"])
        lines.append(f"takes effect after a restart ({how}): {keys}")
    return lines


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group = typer.Typer(
        help="Show, check and change the configuration.",
        no_args_is_help=True,
        epilog=examples("config show", "config set log.level debug"),
    )
    group.command(epilog=examples("config show", "config show --origin"))(show)
    group.command(epilog=examples("config check", "config check ./aitorrent.yaml"))(check)
    group.command(epilog=examples("config get plugins.transport.port"))(get)
    group.command(
        "set",
        epilog=examples("config set log.level debug", "config set plugins.transport.port 8468"),
    )(set_)
    group.command(epilog=examples("config reload"))(reload)
    app.add_typer(group, name="config")
