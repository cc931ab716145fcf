"""Generates the manual pages from the code: `python -m tools.manual.pages DIRECTORY`.

aitorrentd(8) from the daemon's own parser, aitorrentctl(1) from the command tree, aitorrent.yaml(5)
from the models that check the file, aitorrent-plugins(7) from the hooks.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import Final

from aitorrentd import __version__, main
from aitorrentd.api import events, hooks
from aitorrentd.cli.app import GLOBAL_OPTIONS
from aitorrentd.exit_codes import DaemonExit, ExitCode
from aitorrentd.installing.layer import packages
from aitorrentd.kernel.hooks import HOOKS
from tools.manual.described import Table, commands, core_tables, plugin_tables
from tools.manual.roff import Page

PAGES: Final = (
    "aitorrentd(8)",
    "aitorrentctl(1)",
    "aitorrent.yaml(5)",
    "aitorrent-plugins(7)",
)
_LAYER: Final = Path("/usr/local/lib/aitorrentd/plugins")

_DAEMON_EXITS: Final = {
    DaemonExit.OK: "Stopped as requested.",
    DaemonExit.USAGE: "Invalid usage.",
    DaemonExit.UNAVAILABLE: "The state directory or the control socket is in use by another "
    "daemon, or the disk is full.",
    DaemonExit.SOFTWARE: "A plugin in `required` failed.",
    DaemonExit.NOPERM: "No permission for a directory or file.",
    DaemonExit.CONFIG: "The configuration is invalid. systemd does not restart the daemon.",
}
TOOL_EXITS: Final = {
    ExitCode.OK: "Done.",
    ExitCode.ERROR: "The daemon answered with an error, or a check failed.",
    ExitCode.USAGE: "Invalid usage: a wrong command, option or value.",
    ExitCode.NO_DAEMON: "The daemon is not running.",
    ExitCode.TRY_LATER: "No answer in time, or the daemon is busy.",
    ExitCode.DENIED: "Permission denied; the message says which group to join.",
    ExitCode.CONFIG: "The configuration is invalid.",
    ExitCode.INTERRUPTED: "Interrupted.",
}
_FILES: Final = {
    "/etc/aitorrent.yaml": "The configuration. No program writes to it.",
    "/etc/aitorrent.yaml.d/*.yaml": "Drop-ins; `aitorrentctl config set` writes one.",
    "/var/lib/aitorrent": "Identity and databases; back it up.",
    "/var/cache/aitorrent": "Cache; may be deleted while the daemon is stopped.",
    "/run/aitorrent/control.sock": "The control socket, for root and the group `aitorrent`.",
    str(_LAYER): "Plugins installed by `aitorrentctl plugin install`.",
}


def _page(reference: str, about: str) -> Page:
    name, _, section = reference.rstrip(")").partition("(")
    return Page(name, int(section), version=__version__, about=about)


def _finished(page: Page) -> Page:
    own = f"{page.name}({page.section})"
    page.see_also(reference for reference in PAGES if reference != own)
    return page


def daemon_page() -> Page:
    """aitorrentd(8)."""
    page = _page("aitorrentd(8)", "run models split across peers")
    parser = main.parser()
    actions = [a for a in parser._actions if a.help != argparse.SUPPRESS]
    page.heading("SYNOPSIS")
    page.text("`aitorrentd` " + " ".join(f"[{_option(a)}]" for a in actions))
    page.heading("DESCRIPTION")
    page.text(
        """
        The daemon of a node. It connects to other nodes, holds layers of models, answers prompts,
        and is controlled by aitorrentctl(1). It stays in the foreground and logs to standard error;
        under systemd the unit `aitorrentd.service` runs it, and the first client of
        `aitorrentd.socket` starts it.

        Layers are computed and untrusted code is run in separate processes: the units
        `aitorrent-worker@` and `aitorrent-sandbox@`, one instance for each connection to their
        sockets.
        """
    )
    page.heading("OPTIONS")
    for action in actions:
        page.entry(_option(action), f"{(action.help or '').capitalize()}.")
    page.heading("SIGNALS")
    page.entry(
        "SIGTERM, SIGINT",
        "Shut down cleanly. A second signal stops without waiting for running work.",
    )
    page.entry("SIGHUP", "Reload the configuration, like `systemctl reload aitorrentd`.")
    page.heading("EXIT STATUS")
    for code, meaning in _DAEMON_EXITS.items():
        page.entry(str(code), meaning)
    page.heading("ENVIRONMENT")
    page.entry("AITORRENT_CONFIG", "The configuration file, unless --config names one.")
    page.entry(
        "AITORRENT_STATE_DIR",
        "The state directory; overrides the configuration files, but not --state-dir.",
    )
    page.entry(
        "PORT, AI_TORRENT_ADDR, BOOTSTRAP_ADDR",
        "Port, address to announce, and peers to connect to, separated by commas.",
    )
    _write_files(page)
    return _finished(page)


def _option(action: argparse.Action) -> str:
    value = action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else "")
    more = " ..." if action.nargs == "+" else ""
    return f"{action.option_strings[-1]} {value}{more}".rstrip()


def _write_files(page: Page) -> None:
    page.heading("FILES")
    for path, text in _FILES.items():
        page.entry(path, text)


def tool_page() -> Page:
    """aitorrentctl(1)."""
    page = _page("aitorrentctl(1)", "operate the aitorrentd daemon")
    page.heading("SYNOPSIS")
    page.text("`aitorrentctl` [options] command [arguments]")
    page.heading("DESCRIPTION")
    page.text(
        """
        Controls and queries aitorrentd(8) over its control socket. Root and members of the group
        `aitorrent` may operate the system's daemon: `sudo adduser $USER aitorrent`, then log in
        again.

        Results are printed as tables or, with --json, as JSON. Streams are then one JSON object per
        line, and an error is the last line of standard error: {"error": {"code", "message"}}, with
        "data" or "hint" where they apply. Progress is shown only on a terminal.
        """
    )
    page.heading("OPTIONS")
    page.text("They may appear anywhere on the command line.")
    for option, text in GLOBAL_OPTIONS:
        page.entry(option, text)
    page.heading("COMMANDS")
    for command in commands():
        first, _, rest = command.text.partition("\n")
        page.entry(command.usage, first, *([rest] if rest.strip() else []))
        for parameter in command.parameters:
            if parameter.text:
                page.entry(f"    {parameter.usage}", parameter.text)
    page.heading("EXIT STATUS")
    for code in ExitCode:
        page.entry(str(int(code)), TOOL_EXITS[code])
    page.heading("ENVIRONMENT")
    page.entry("AITORRENT_SOCKET", "The control socket, unless --socket names one.")
    page.entry("NO_COLOR", "If set, disables colours.")
    page.heading("EXAMPLES")
    page.example(
        """
        aitorrentctl status
        aitorrentctl ask "What is a torrent?"
        aitorrentctl --json peers
        aitorrentctl plugin install ./aitorrent_hello-1.0.0-py3-none-any.whl
        """
    )
    return _finished(page)


def config_page() -> Page:
    """aitorrent.yaml(5)."""
    page = _page("aitorrent.yaml(5)", "configuration of aitorrentd")
    page.heading("DESCRIPTION")
    page.text(
        """
        YAML. Every key has a default, an empty file is valid, and an unknown key is an error.
        Sources, each overriding those before it: `/etc/aitorrent.yaml`, the files
        `/etc/aitorrent.yaml.d/*.yaml` in name order, the environment, the command line. A
        daemon run by a user reads `$XDG_CONFIG_HOME/aitorrent/aitorrent.yaml` instead.

        Check with `aitorrentctl config check`; apply with `systemctl reload aitorrentd`;
        `aitorrentctl config show --origin` shows the effective settings and their origins.

        Prefer to give a secret by reference: {file: /path}, {env: NAME}, or {credential: NAME} for
        a credential passed by systemd's LoadCredential.
        """
    )
    for table in core_tables():
        page.heading(table.key.upper() or "TOP LEVEL")
        _write_settings(page, table)
    for name, summary, tables in plugin_tables():
        page.heading(f"PLUGIN {name.upper()}")
        page.text(f"{summary[:1].upper()}{summary[1:]}.")
        for table in tables:
            if table is not tables[0]:
                page.subheading(table.key)
            _write_settings(page, table)
    page.heading("EXAMPLE")
    page.example(
        """
        version: 1
        plugins:
          transport:
            port: 8468
            bootstrap: [192.0.2.1:8468]
          shards:
            models:
              - {name: demo, layers: 0-4}
        """
    )
    return _finished(page)


def _write_settings(page: Page, table: Table) -> None:
    if table.text:
        page.text(table.text)
    for setting in table.settings:
        text = setting.text.strip().rstrip(".")
        facts = setting.kind + (f"; default {setting.default}" if setting.default else "")
        page.entry(setting.key, f"{text[:1].upper()}{text[1:]}." if text else facts, facts)


def plugins_page() -> Page:
    """aitorrent-plugins(7)."""
    page = _page("aitorrent-plugins(7)", "plugins of aitorrentd")
    page.heading("DESCRIPTION")
    page.text(
        """
        A plugin is a Python distribution with an entry point in the group `aitorrentd.plugins`: a
        class, which the daemon instantiates once. A module in the group `aitorrentd.cli` may
        add commands to aitorrentctl(1). Plugins import `aitorrentd.api` and nothing else of the
        program. A plugin that fails affects no other: it is shown as broken or failed in
        `aitorrentctl plugin list`, and everything else keeps running.
        """
    )
    page.heading("INSTALLING")
    page.example(
        """
        sudo aitorrentctl plugin install ./aitorrent_hello-1.0.0-py3-none-any.whl
        sudo systemctl restart aitorrentd
        aitorrentctl plugin info hello
        """
    )
    page.text(
        f"""
        Plugins go to `{packages(_LAYER)}`, which is owned by root and comes after the daemon's
        libraries on the module path, so that no plugin can replace one of them. Nodes that hold
        layers of models need torch: `sudo aitorrentctl plugin install 'aitorrentd[torch]'`.
        """
    )
    page.heading("HOOKS")
    page.text(
        "Methods of the class, marked with `aitorrentd.api.hookimpl`. They only declare, and "
        "must be fast."
    )
    for name in sorted(HOOKS):
        hook = getattr(hooks, name)
        first, *more = inspect.cleandoc(hook.__doc__ or "").split("\n\n")
        page.entry(f"{name}({', '.join(inspect.signature(hook).parameters)})", first, *more)
    page.heading("EVENTS")
    kinds = sorted(events.Event.__subclasses__(), key=lambda kind: kind.topic)
    for kind in kinds:
        if kind.__module__ == events.__name__:
            page.entry(f"{kind.__name__} ({kind.topic})", inspect.cleandoc(kind.__doc__ or ""))
    return _finished(page)


def pages() -> list[Page]:
    """All manual pages."""
    return [daemon_page(), tool_page(), config_page(), plugins_page()]


def write(directory: Path) -> list[Path]:
    """Write every page into `directory` and print the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for page in pages():
        file = directory / page.file_name
        file.write_text(page.render(), encoding="ascii")
        written.append(file)
    return written


if __name__ == "__main__":
    for done in write(Path(sys.argv[1])):
        sys.stdout.write(f"{done}\n")
