"""`plugin install`, `remove`, `rebuild`, `new`: the commands that need no daemon."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aitorrentd.cli import toolkit
from aitorrentd.cli.toolkit import AitorrentError, clean
from aitorrentd.exit_codes import ExitCode

if TYPE_CHECKING:
    from aitorrentd.installing.plugins import Installer, Plan

_SYSTEMCTL_S = 90.0

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
NoRestart = Annotated[
    bool, typer.Option("--no-restart", help="Do not restart the system's daemon.")
]
FindLinks = Annotated[
    list[str] | None,
    typer.Option("--find-links", help="Also look for wheels here.", metavar="DIR"),
]
NoIndex = Annotated[
    bool, typer.Option("--no-index", help="Ignore package indexes; use only --find-links.")
]


def install(
    what: Annotated[
        str,
        typer.Argument(
            help="A distribution, a wheel, ./directory, or 'aitorrentd[torch]'.", metavar="WHAT"
        ),
    ],
    yes: Yes = False,
    no_restart: NoRestart = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", "-U", help="Replace the installed version.")
    ] = False,
    find_links: FindLinks = None,
    no_index: NoIndex = False,
) -> None:
    """Install a plugin or an extra of aitorrentd with pip; needs no daemon.

    A plugin that needs a different version of one of aitorrentd's libraries is rejected. A
    running daemon loads the plugin after a restart.
    """
    installer, told = _installer(find_links, no_index)
    with installer.planned(what, upgrade=upgrade) as (plan, pip):
        told.bar.clear()
        reply = _shown(plan)
        if plan.is_needed:
            if not toolkit.options.json:
                toolkit.echo(_render_plan(reply))
            _confirm("Install?", yes)
            installer.carry_out(plan, pip)
            told.bar.clear()
            reply["restarted"] = _restart(yes, no_restart, installer)
    toolkit.emit(reply, _render_installed)


def remove(
    name: Annotated[
        str,
        typer.Argument(help="The plugin's name, or the name of its distribution.", metavar="NAME"),
    ],
    yes: Yes = False,
    no_restart: NoRestart = False,
) -> None:
    """Remove an installed plugin; its dependencies stay until `plugin rebuild`."""
    installer, told = _installer(None, False)
    installer.check_removable(name)
    _confirm(f"Remove {clean(name)}?", yes)
    facts = installer.remove(name)
    told.bar.clear()
    reply: dict[str, Any] = {
        "removed": facts.name if facts else name,
        "plugins": list(facts.plugins) if facts else [],
        "restarted": _restart(yes, no_restart, installer),
    }
    toolkit.emit(reply, _render_removed)


def rebuild(
    yes: Yes = False,
    no_restart: NoRestart = False,
    find_links: FindLinks = None,
    no_index: NoIndex = False,
) -> None:
    """Rebuild the plugin layer, after a Python upgrade or to remove unused dependencies."""
    installer, told = _installer(find_links, no_index)
    _confirm(f"Rebuild {installer.target.title}?", yes)
    wanted = installer.rebuild()
    told.bar.clear()
    restarted = _restart(yes, no_restart, installer)
    reply = {"target": str(installer.target.site), "requirements": wanted, "restarted": restarted}
    toolkit.emit(reply, _render_rebuilt)


def new(
    name: Annotated[
        str, typer.Argument(help="The plugin's name, such as weather.", metavar="NAME")
    ],
    directory: Annotated[
        str,
        typer.Option("--dir", help="Target directory (default: ./aitorrent-NAME).", metavar="DIR"),
    ] = "",
) -> None:
    """Generate a small plugin to start from, with passing tests."""
    from aitorrentd.installing.template import create

    root, files = create(name, directory or None)
    reply = {"directory": str(root), "files": files}
    toolkit.emit(reply, lambda r: _render_new(r, name))


class _Told:
    """Shows pip's progress: a bar on a terminal, else one line per step."""

    def __init__(self) -> None:
        self.bar = toolkit.Progress()
        self._is_terminal = sys.stderr.isatty()
        self._last = ""

    def __call__(self, state: Mapping[str, Any]) -> None:
        if self._is_terminal:
            self.bar(state)
        elif not toolkit.options.json and state["text"] != self._last:
            self._last = state["text"]
            sys.stderr.write(f"{clean(self._last)}\n")


def _installer(find_links: list[str] | None, no_index: bool) -> tuple[Installer, _Told]:
    from aitorrentd.installing.pip import Source
    from aitorrentd.installing.plugins import DEADLINE_S, Installer

    told = _Told()
    source = Source(tuple(find_links or ()), not no_index)
    installer = Installer(source=source, deadline_s=toolkit.timeout_s(DEADLINE_S), told=told)
    try:
        installer.target.check()
    except AitorrentError as e:
        if e.code == "denied" and installer.target.layer is not None:
            words = sys.argv[1:] if "plugin" in sys.argv[1:] else ["plugin", "..."]
            toolkit.fail(
                f"installing plugins requires root; run: sudo aitorrentctl {shlex.join(words)}",
                ExitCode.DENIED,
            )
        raise
    return installer, told


def _shown(plan: Plan) -> dict[str, Any]:
    facts = plan.facts
    return {
        "requirement": plan.requirement,
        "name": facts.name if facts else "aitorrentd",
        "version": facts.version if facts else "",
        "replaces": plan.replaces,
        "plugins": list(facts.plugins) if facts else [],
        "commands": list(facts.commands) if facts else [],
        "brings": [f"{name} {version}" for name, version in plan.others],
        "target": str(plan.target.site),
        "changed": plan.is_needed,
        "restarted": False,
    }


def _render_plan(reply: Mapping[str, Any]) -> str:
    pairs = [
        ("install", reply["requirement"]),
        ("replaces", reply["replaces"]),
        ("plugins", reply["plugins"]),
        ("commands from", reply["commands"]),
        ("dependencies", reply["brings"]),
        ("into", reply["target"]),
    ]
    return toolkit.fields([pair for pair in pairs if pair[1]])


def _render_installed(reply: Mapping[str, Any]) -> str:
    what = clean(reply["requirement"])
    if not reply["changed"]:
        return f"{what} is already installed"
    plugins = ", ".join(clean(name) for name in reply["plugins"])
    lines = [f"installed {what}" + (f": plugin {plugins}" if plugins else "")]
    return "\n".join([*lines, _next(reply)])


def _render_removed(reply: Mapping[str, Any]) -> str:
    text = (
        f"removed {clean(reply['removed'])}; its dependencies stay: aitorrentctl plugin "
        "rebuild removes those that no plugin needs"
    )
    return f"{text}\n{_next(reply)}"


def _render_rebuilt(reply: Mapping[str, Any]) -> str:
    held = ", ".join(clean(line) for line in reply["requirements"]) or "nothing"
    return f"rebuilt {clean(reply['target'])} with {held}\n{_next(reply)}"


def _next(reply: Mapping[str, Any]) -> str:
    if reply["restarted"]:
        return "the daemon was restarted; see: aitorrentctl plugin list"
    from aitorrentd.system import unit

    how = unit.SYSTEM.restart_remedy(toolkit.socket_path())
    return f"a running daemon applies this after a restart: {how}"


def _render_new(reply: Mapping[str, Any], name: str) -> str:
    from aitorrentd.installing import layer as layers

    directory = clean(reply["directory"])
    install = f"aitorrentctl plugin install {directory}"
    steps = [
        f"next: pip install -e {directory} && python -m pytest {directory}",
        f"or:   {install}",
    ]
    if layers.layer() is not None:
        # A packaged aitorrentd's environment belongs to the package manager: not for development.
        steps = [
            f"next: sudo {install}",
            "test: in a virtual environment that has aitorrentd, as described in its README.md",
        ]
    files = (f"  {clean(file)}" for file in reply["files"])
    return "\n".join(
        [f"wrote {directory}:", *files, *steps, f"then: aitorrentctl {clean(name)} Ada"]
    )


def _confirm(question: str, yes: bool) -> None:
    if yes or _answer(question):
        return
    toolkit.fail("nothing was changed", ExitCode.ERROR)


def _answer(question: str) -> bool:
    """The user's answer at a terminal; elsewhere there is no one to ask."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()) or toolkit.options.json:
        toolkit.fail("not a terminal; pass --yes to confirm", ExitCode.USAGE)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _restart(yes: bool, no_restart: bool, installer: Installer) -> bool:
    """Restart the system's daemon if it is running and uses what was changed."""
    if no_restart or installer.target.layer is None:
        return False
    from aitorrentd.system import unit

    if not unit.SYSTEM.is_active(unit.DAEMON):
        return False
    if not yes and not _answer("Restart aitorrentd now?"):
        return False
    unit.SYSTEM.restart(unit.DAEMON, timeout_s=_SYSTEMCTL_S)
    return True


def register(group: typer.Typer) -> None:
    """Add the commands to `plugin`."""
    # Command lists have limited room; each command's own help gives the details.
    group.command(
        short_help="Install a plugin or an extra of aitorrentd with pip.",
        epilog=toolkit.examples(
            "plugin install 'aitorrentd[torch]'",
            "plugin install ./aitorrent_hello-1.0.0-py3-none-any.whl",
        ),
    )(install)
    group.command(
        short_help="Remove an installed plugin.", epilog=toolkit.examples("plugin remove hello")
    )(remove)
    group.command(
        short_help="Rebuild the plugin layer.",
        epilog=toolkit.examples(
            "plugin rebuild", "plugin rebuild --no-index --find-links ./wheels"
        ),
    )(rebuild)
    group.command(epilog=toolkit.examples("plugin new weather", "plugin new weather --dir ~/src"))(
        new
    )
