"""Adds to a usage error what the user probably meant: a subcommand, an option, or quotes."""

from __future__ import annotations

import re
from typing import Any

import typer

from aitorrentd.cli.wording.help_words import plain_value_error

# From click, or from the copy of it that newer typers bundle.
ClickException: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

_LISTING = frozenset({"list", "ls", "show", "all"})
_SENTENCES = frozenset({"PROMPT", "MESSAGE", "TEXT"})
"Metavars of arguments that are often several words."


def hint_at_subcommands(group: Any) -> None:
    """Suggest for a mistyped subcommand one that is close in meaning or spelling, or none."""
    resolve = group.resolve_command

    def resolve_command(ctx: Any, args: list[str]) -> Any:
        try:
            return resolve(ctx, args)
        except ClickException as e:
            if args and args[0] not in group.commands and not args[0].startswith("-"):
                from aitorrentd.cli.wording.suggestions import suggestion

                near = suggestion(args[0], group.commands, group=str(group.name))
                if near:
                    e.message = f"{e.message.rstrip('.')}. Did you mean {near!r}?"
                elif group.invoke_without_command and args[0] in _LISTING:
                    e.message = f"{e.message.rstrip('.')}. Did you mean {ctx.command_path!r}?"
            raise

    group.resolve_command = resolve_command


def hint_at_options(command: Any) -> None:
    """Suggest for a superfluous argument the options that take a name, or quotes around a text."""
    parse = command.parse_args

    def parse_args(ctx: Any, args: list[str]) -> Any:
        given = list(args)
        try:
            return parse(ctx, args)
        except ClickException as e:
            e.message = plain_value_error(e) or e.message
            found = re.fullmatch(
                r"Got unexpected extra arguments?\s?(?:\(s\) )?\((.*)\)", e.message
            )
            if found and (meant := _meant(command, given, found[1])):
                e.message = f"Unexpected argument: {found[1]}. Did you mean {meant}?"
            raise

    command.parse_args = parse_args


def _meant(command: Any, args: list[str], extra: str) -> str:
    """The command lines that `extra` may have been meant for; empty if none is known."""
    name = command.name
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if not arguments:
        takers = [p.opts[0] for p in command.params if p.metavar == "NAME"]
        return " or ".join(f"'{name} {option} {extra}'" for option in takers)
    if len(arguments) == 1 and arguments[0].metavar in _SENTENCES:
        words = [arg for arg in args if not arg.startswith("-")]
        return f'{name} "{" ".join(words)}"' if len(words) == len(args) else ""
    return ""
