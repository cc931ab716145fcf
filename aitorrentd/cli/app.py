"""The command tree of `aitorrentctl`; each command is loaded on first use.

A static table lists the core commands; the entry points of group `aitorrentd.cli` are scanned only
for other names and for --help; see `aitorrentd.cli.plugin_commands`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any, Final, cast

import typer
from typer.core import TyperGroup

from aitorrentd.cli import toolkit
from aitorrentd.cli.plugin_commands import PluginCommands
from aitorrentd.cli.toolkit import PROGRAM, CommandFailed, Options, set_options
from aitorrentd.cli.wording.help_words import use_panels, use_plain_words
from aitorrentd.cli.wording.usage_hints import ClickException, hint_at_options, hint_at_subcommands
from aitorrentd.exit_codes import ExitCode
from aitorrentd.system.streams import stdout_to_stderr

LEAVE: Final = ("exit", "quit")
"Words that end the shell, and so are not commands."

CORE: Final[dict[str, tuple[str, str]]] = {
    "status": ("node", "Show the node's status."),
    "id": ("node", "Show this node's id and listening addresses."),
    "version": ("node", "Show the versions of this program and the daemon."),
    "wait": ("node", "Wait until the daemon, one of its plugins or a model is ready."),
    "plugin": ("plugins", "List, install, enable, disable and restart plugins."),
    "config": ("settings", "Show, check and change the configuration."),
    "events": ("watching", "Follow the node's events."),
    "logs": ("watching", "Show the daemon's log."),
    "rpc": ("calling", "List and describe the methods of the control API."),
    "call": ("calling", "Call any method of the control API."),
    "drain": ("node", "Stop taking new work and wait for running work to finish."),
    "doctor": ("checking", "Diagnose common problems and suggest fixes."),
    "bugreport": ("bugreporting", "Write a bug report archive without secrets."),
    "shell": ("shell", "Open an interactive prompt."),
}
"Command -> the module below aitorrentd.cli that registers it, and its line in --help."

GLOBAL_OPTIONS: Final = [
    ("--json", "Print JSON; one line per item for streams and errors."),
    ("--socket PATH", "Control socket of the daemon.  [env: AITORRENT_SOCKET]"),
    ("--timeout SECONDS", "Maximum time to wait for an answer.  [default: 30]"),
    ("--no-color", "No colours.  [env: NO_COLOR]"),
    ("-V, --version", "Show this program's version."),
    ("-h, --help", "Show this help, or the help of a command."),
    ("--install-completion", "Install completion for the current shell."),
    ("--show-completion", "Print the completion script of the current shell."),
]
_COMPLETION_FLAGS: Final = ("--install-completion", "--show-completion")


def split_globals(args: Sequence[str], base: Options) -> tuple[Options, list[str]]:
    """Extract the global options from a command line; they may appear anywhere before a `--`.

    Raises:
        CommandFailed: an option's value is missing or invalid.
    """
    rest: list[str] = []
    found = base
    words = iter(args)
    for word in words:
        name, has_value, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif word == "--json":
            found = replace(found, json=True)
        elif word == "--no-color":
            found = replace(found, color=False)
        elif name in ("--socket", "--timeout"):
            value = value if has_value else next(words, "")
            if not value:
                raise CommandFailed(f"option {name} needs a value", ExitCode.USAGE)
            if name == "--socket":
                found = replace(found, socket=value)
            else:
                found = replace(found, timeout=_seconds(value))
        else:
            rest.append(word)
    return found, rest


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = -1
    if not 0 < seconds <= 1e9:
        raise CommandFailed(f"--timeout takes seconds above 0, got {text!r}", ExitCode.USAGE)
    return seconds


FIRST: Final = ("ask", "chat", "models", "peers", "status")
"What --help lists first: what people use every day."

RESERVED: Final = (*CORE, "help", *LEAVE)
"Names that no plugin command may have."


def _sentence(text: object) -> str:
    return toolkit.clean(text).rstrip(".") + "."


def _quick_flag(option: Any) -> Any:
    """typer imports pydantic to turn a missing --help into None; False needs no conversion."""
    if option is not None and option.default is None:
        option.default = False
    return option


def _adapted(command: Any) -> Any:
    """`command` and its subcommands, with a quick --help that ends with examples."""
    make_help = command.get_help_option
    use_plain_words(command)
    command.get_help_option = lambda ctx: _quick_flag(make_help(ctx))
    write_epilog = command.format_epilog

    def format_epilog(ctx: Any, formatter: Any) -> None:
        if not _write_examples(command.epilog or "", formatter):
            write_epilog(ctx, formatter)

    command.format_epilog = format_epilog
    if isinstance(command, TyperGroup):
        command.suggest_commands = False  # by spelling only
        hint_at_subcommands(command)
        for inner in command.commands.values():
            _adapted(inner)
    else:
        use_panels(command)
        hint_at_options(command)
    return command


def _write_examples(epilog: str, formatter: Any) -> bool:
    """Write command lines verbatim, never wrapped; False for any other text."""
    lines = epilog.splitlines()
    if not lines or not all(f"{PROGRAM} " in line for line in lines):
        return False
    with formatter.section("Examples"):
        for line in lines:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
    return True


def _built(module: Any) -> dict[str, Any]:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    module.register(app)
    commands: dict[str, Any] = _adapted(typer.main.get_group(app)).commands
    return commands


@contextmanager
def _wrong_usage() -> Iterator[None]:
    """With --json, turn typer's usage errors into errors like any other."""
    try:
        yield
    except ClickException as e:
        if not toolkit.options.json:
            raise
        path = e.ctx.command_path if getattr(e, "ctx", None) is not None else PROGRAM
        # Without a command, typer's message is the whole help.
        missing = type(e).__name__ == "NoArgsIsHelpError"
        message = "no command given" if missing else e.format_message()
        raise CommandFailed(message, e.exit_code, hint=f"see {path} --help") from None


class RootGroup(TyperGroup):
    """The top level: knows every command by name and builds it on first use."""

    plugins: PluginCommands
    "Set by `root`."

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Extract the global options first; they may appear anywhere."""
        try:
            found, rest = split_globals(args, toolkit.options)
        except CommandFailed:
            if "--json" in args[: args.index("--") if "--" in args else None]:
                set_options(replace(toolkit.options, json=True))
            raise
        set_options(found)
        if rest[:1] == ["help"]:
            rest = [*rest[1:], "--help"]
        if rest[:1] in (["--version"], ["-V"]):
            from aitorrentd import __version__

            toolkit.echo(f"{PROGRAM} {__version__}")
            raise typer.Exit(0)
        with _wrong_usage():
            return super().parse_args(ctx, rest)

    def get_help_option(self, ctx: Any) -> Any:
        """Like typer's, without its import cost."""
        return _quick_flag(super().get_help_option(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in self.commands:
            if cmd_name in CORE:
                self.commands.update(_built(import_module(f"aitorrentd.cli.{CORE[cmd_name][0]}")))
            elif not cmd_name.startswith("-"):
                self._add_plugin_commands(cmd_name)
        return self.commands.get(cmd_name)

    def _add_plugin_commands(self, cmd_name: str) -> None:
        """Build the commands of the plugin that has `cmd_name`, if any."""
        if (module := self.plugins.find(cmd_name)) is None:
            return
        try:
            with stdout_to_stderr():
                built = _built(module)
            if cmd_name not in built:
                raise LookupError(f"it does not register {cmd_name!r}, which it declares")
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # a third-party register(), which may call sys.exit()
            self.plugins.has_failed(cmd_name, e)
            return
        for name, command in built.items():
            if self.plugins.owns(module, name):
                self.commands.setdefault(name, command)

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, core first."""
        return [*CORE, *self.plugins.lines()]

    @staticmethod
    def _core_lines() -> list[tuple[str, str]]:
        return [(name, line) for name, (_, line) in CORE.items()]

    def help_lines(self) -> list[tuple[str, str]]:
        """Every usable command with its help line, the common ones first, without building any."""
        plugins = self.plugins.lines(verified=True)
        lines = dict(self._core_lines()) | {name: _sentence(line) for name, line in plugins.items()}
        first = {name: lines[name] for name in FIRST if name in lines}
        return list((first | lines).items())

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The commands that begin with `incomplete`, without building any."""
        self.plugins.is_silent = True
        # From the same click.
        package = ClickException.__module__.rpartition(".")[0]
        completion_item = import_module(f"{package}.shell_completion").CompletionItem
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            completion_item(name, help=line)
            for name, line in [*self._core_lines(), *self.plugins.lines().items()]
            if name.startswith(incomplete)
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The global options and the commands, for --help."""
        with formatter.section("Options (anywhere on the line)"):
            formatter.write_dl(GLOBAL_OPTIONS)
        with formatter.section("Commands"):
            formatter.write_dl(self.help_lines())

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples."""
        _write_examples(self.epilog or "", formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Like typer, but its "did you mean" knows every command."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from aitorrentd.cli.wording.suggestions import service_hint, suggestion

            near = suggestion(args[0], [*CORE, *self.plugins.names()])
            hint = f"did you mean {near}?" if near else service_hint(args[0])
            hint = hint or f"see {PROGRAM} --help"
            raise CommandFailed(
                f"no such command: {toolkit.clean(args[0])}; {hint}", ExitCode.USAGE
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C and a closed pipe have their own exit codes."""
        try:
            with _wrong_usage():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(ExitCode.OK) from None


def root(args: Sequence[str] = (), *, plugins: PluginCommands | None = None) -> Any:
    """The command tree; `args` only tells whether shell completion is requested.

    `plugins` are the commands of plugins, by default those that are installed.
    """
    wants_completion = any(a in _COMPLETION_FLAGS for a in args) or any(
        name.endswith("_COMPLETE") for name in os.environ
    )
    app = typer.Typer(
        cls=RootGroup,
        name=PROGRAM,
        # Commands take it from their running context.
        context_settings={"help_option_names": ["--help", "-h"]},
        help="Control and query the aitorrentd daemon.",
        epilog=toolkit.examples("status", 'ask "What is a torrent?"', "plugin list --json"),
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=wants_completion,
    )
    app.callback()(_no_op)
    group = cast(RootGroup, typer.main.get_command(app))
    group.plugins = plugins or PluginCommands(RESERVED)
    return group


def _no_op() -> None:
    """The callback that makes typer build a group."""
