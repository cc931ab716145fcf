"""`aitorrentctl bugreport`: what a maintainer needs, in one archive, without secrets.

Keys are never read. Everything passes through the `Anonymizer`, and large items are truncated.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aitorrentd import __version__
from aitorrentd.config import Config
from aitorrentd.doctor.redaction import Anonymizer, secrets_in
from aitorrentd.errors import AitorrentError, ConfigError, Conflict, Denied, Unavailable
from aitorrentd.system import unit
from aitorrentd.system.paths import config_file

Ask = Callable[[str, Mapping[str, Any]], Any]
"Calls a method of the daemon; for a stream, returns its items."

_MAX_LOG_CHARS: Final = 2 * 1024 * 1024
_LOG_LINES: Final = 2000
_JOURNAL_S: Final = 20.0
_MAX_SECRET_FILE_BYTES: Final = 64 * 1024
_README: Final = """\
A bug report of aitorrentd {version}, created on {day}.

{files}

Omitted: keys and other secrets, prompts and answers, log records below "info".
Shortened: peer ids and addresses, host names, home directories, long random strings.
Review it before you share it: tar -xzf ARCHIVE
"""
ABOUT: Final[Mapping[str, str]] = {
    "versions.json": "versions of aitorrentd, its libraries, third-party plugins and the system",
    "doctor.json": "the results of `aitorrentctl doctor`",
    "status.json": "the node's status",
    "plugins.json": "the plugins and their states",
    "config.json": "the configuration, secrets redacted",
    "daemon.log": "the daemon's latest log records",
    "journal.log": "the unit's latest lines in the systemd journal",
    "errors.txt": "what could not be collected, and why",
}


def known_secrets(path: str | None) -> set[str]:
    """Every configuration secret that this user can read, and the node's seed."""
    try:
        config = Config.load(path, outside=True)
    except ConfigError:
        file = Path(path) if path else config_file()
        return secrets_in(_read(file))
    seed = _read(config.identity_file).split()
    return {*config.secrets, *seed[1:]}


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_SECRET_FILE_BYTES).decode(errors="replace")
    except OSError:
        return ""


def versions() -> dict[str, Any]:
    """What runs here, as seen from outside the daemon."""
    from aitorrentd.installing.target import core_distributions, here

    system = ""
    for line in _read(Path("/etc/os-release")).splitlines():
        if line.startswith("PRETTY_NAME="):
            system = line.partition("=")[2].strip('"')
    target = here()
    return {
        "aitorrentd": __version__,
        "python": platform.python_version(),
        "system": system,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "cpus": os.cpu_count(),
        "libraries": {name: d.version for name, d in sorted(core_distributions().items())},
        "plugins": [
            {"name": f.name, "version": f.version, "plugins": f.plugins, "commands": f.commands}
            for f in target.distributions()
            if f.is_plugin or target.layer is not None
        ],
        "plugin_layer": str(target.layer) if target.layer else None,
    }


def _journal() -> str:
    if not unit.SYSTEM.properties(unit.DAEMON):
        raise Unavailable("systemd is not running")
    command = ["journalctl", "--unit", unit.DAEMON, "--lines", "1000", "--no-pager"]
    try:
        done = subprocess.run(
            [*command, "--output", "short-iso"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_JOURNAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable(f"journalctl: {type(e).__name__}") from None
    if not done.stdout.strip():
        raise Unavailable("this user may not read the journal; use sudo")
    return done.stdout


def _log(ask: Ask) -> str:
    lines = []
    for item in ask("node.logs", {"level": "info", "lines": _LOG_LINES}):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item["at"]))
        lines.append(f"{at} {item['level']:<7} {item['logger']}: {item['text']}")
    return "\n".join(lines)


def gather(
    ask: Ask | None, doctor: Callable[[], Any], *, config_path: str | None = None
) -> dict[str, str]:
    """The redacted files of a report, by name; `ask` is None if no daemon answers."""
    hide = Anonymizer(known_secrets(config_path or _config_of(ask)))
    missing: list[str] = []

    def as_json(value: Any) -> str:
        return json.dumps(hide.tree(value), ensure_ascii=False, indent=2) + "\n"

    def cut(text: str) -> str:
        # From the end: the latest events matter most.
        return hide.text(text[-_MAX_LOG_CHARS:]) + "\n"

    def config() -> Any:
        if ask is not None:
            return ask("config.show", {"origin": True})
        return {"config": Config.load(config_path, outside=True).shown()}

    def asked(method: str) -> Any:
        if ask is None:
            raise Unavailable("no daemon answers")
        return ask(method, {})

    def log() -> str:
        if ask is None:
            raise Unavailable("no daemon answers")
        return _log(ask)

    parts: dict[str, Callable[[], str]] = {
        "versions.json": lambda: as_json({"here": versions(), "daemon": _daemon_version(ask)}),
        "doctor.json": lambda: as_json(doctor()),
        "status.json": lambda: as_json(asked("node.status")),
        "plugins.json": lambda: as_json(asked("plugin.list")),
        "config.json": lambda: as_json(config()),
        "daemon.log": lambda: cut(log()),
        "journal.log": lambda: cut(_journal()),
    }
    files: dict[str, str] = {}
    for name, make in parts.items():
        try:
            files[name] = make()
        except AitorrentError as e:
            missing.append(f"{name}: {hide.text(e.message)}")
    if missing:
        files["errors.txt"] = "\n".join(missing) + "\n"
    listed = "\n".join(f"{name:<14} {ABOUT[name]}" for name in files)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    readme = _README.format(version=__version__, day=day, files=listed)
    return {"README.txt": readme, **files}


def _config_of(ask: Ask | None) -> str | None:
    """The daemon's configuration file, without drop-ins; None = the default one."""
    if ask is None:
        return None
    try:
        files: list[str] = ask("config.show", {})["files"]
    except AitorrentError:
        return None
    return next((file for file in files if not Path(file).parent.name.endswith(".d")), None)


def _daemon_version(ask: Ask | None) -> Any:
    return ask("node.version", {}) if ask is not None else None


def write(path: Path, files: Mapping[str, str]) -> None:
    """Write the archive, readable by this user only.

    Raises:
        Conflict: the file exists. Denied, Unavailable: it cannot be written.
    """
    room = path.name.removesuffix(".tar.gz").removesuffix(".tgz")
    now = int(time.time())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode(errors="replace")
            entry = tarfile.TarInfo(f"{room}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), now, 0o600
            archive.addfile(entry, io.BytesIO(content))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as out:
            out.write(buffer.getvalue())
    except FileExistsError:
        raise Conflict(f"{path} already exists; choose another path with -o") from None
    except PermissionError:
        raise Denied(f"no permission to write {path}; choose another place with -o") from None
    except OSError as e:
        raise Unavailable(f"cannot write {path}: {e.strerror}") from None
