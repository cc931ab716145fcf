"""Where files live: system directories for a service, XDG directories for a user.

Root and a service started by systemd use /etc, /var/lib, /var/cache and /run; everyone else uses
the XDG base directories. Keep the imports light: `aitorrentctl` loads this on every start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrentd.errors import ConfigError

SYSTEM_CONFIG: Final = Path("/etc/aitorrent.yaml")
SOCKET_NAME: Final = "control.sock"
IDENTITY_NAME: Final = "identity.key"
_QUOTES: Final = ('"', "'", "`", "\N{LEFT DOUBLE QUOTATION MARK}", "\N{LEFT SINGLE QUOTATION MARK}")
MAX_SOCKET_BYTES: Final = 107
"sun_path holds 108 bytes with its closing NUL (unix(7))."


def is_system(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the system's service, or root, rather than a user's own daemon."""
    return os.geteuid() == 0 or environ.get("STATE_DIRECTORY", "").startswith("/var/lib/")


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The home directory; for a user without one, a path that never exists."""
    found = environ.get("HOME") or os.path.expanduser("~")
    return Path(found if found.startswith("/") else "/nonexistent")


def stray_characters(path: str) -> str:
    """What was probably not meant to be part of a path; an empty string if nothing.

    An environment file keeps quotation marks, spaces and carriage returns that a shell would drop.
    """
    if path != path.strip():
        return "begins or ends with white space; remove it"
    if not path.isprintable():
        return "has an unprintable character; retype it"
    if path[:1] in _QUOTES:
        return "begins with a quotation mark; write the path without it"
    return ""


def absolute(path: Path) -> Path:
    """`path` below the current directory.

    Raises:
        ConfigError: it is relative, and the current directory was removed.
    """
    try:
        return path.absolute()
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is relative, but the current directory was removed; write an absolute path"
        ) from None


def expanded(path: Path) -> Path:
    """`path` with `~` expanded, made absolute.

    Raises:
        ConfigError: it begins with the home of a user without one, or as in `absolute`.
    """
    try:
        return absolute(path.expanduser())
    except RuntimeError:
        whose = path.parts[0].removeprefix("~")
        raise ConfigError(
            f"{path}: {whose or 'this user'} has no home directory; write an absolute path"
        ) from None


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    # XDG base directory specification: a relative path is invalid and must be ignored.
    value = environ.get(variable, "")
    return Path(value) if value.startswith("/") else home(environ) / fallback


def _directory(environ: Mapping[str, str], *, unit: str, system: str, xdg: tuple[str, str]) -> Path:
    # systemd passes a colon-separated list; ours has one entry (systemd.exec(5)).
    given = environ.get(unit, "").split(":")[0]
    if given.startswith("/"):
        return Path(given)
    if is_system(environ):
        return Path(system)
    return _xdg(environ, *xdg) / "aitorrent"


@dataclass(frozen=True, slots=True)
class Directories:
    """The three directories of a node."""

    state: Path
    "Persistent data: identity, databases, sessions."
    cache: Path
    "Data that may be deleted at any time."
    runtime: Path
    "Data kept until the daemon stops: sockets."


def directories(
    environ: Mapping[str, str] = os.environ,
    *,
    state: Path | None = None,
    cache: Path | None = None,
    runtime: Path | None = None,
) -> Directories:
    """The directories of a node; absolute arguments override the environment and the defaults.

    A non-default state directory contains its own cache and runtime directories, so that two nodes
    with different state share nothing.

    Raises:
        ConfigError: $AITORRENT_STATE_DIR is invalid, as in `expanded`.
    """
    chosen = environ.get("AITORRENT_STATE_DIR", "")
    if state is None and chosen:
        state = expanded(Path(chosen))
    if state is not None:
        return Directories(
            state=state, cache=cache or state / "cache", runtime=runtime or state / "run"
        )
    found_state = _directory(
        environ,
        unit="STATE_DIRECTORY",
        system="/var/lib/aitorrent",
        xdg=("XDG_STATE_HOME", ".local/state"),
    )
    return Directories(
        state=found_state,
        cache=cache or _cache_dir(environ),
        runtime=runtime or _runtime_dir(environ, found_state),
    )


def _cache_dir(environ: Mapping[str, str]) -> Path:
    return _directory(
        environ,
        unit="CACHE_DIRECTORY",
        system="/var/cache/aitorrent",
        xdg=("XDG_CACHE_HOME", ".cache"),
    )


def _runtime_dir(environ: Mapping[str, str], state: Path) -> Path:
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given.startswith("/"):
        return Path(given)
    if is_system(environ):
        return Path("/run/aitorrent")
    base = environ.get("XDG_RUNTIME_DIR", "")
    # Never below /tmp: another user could claim the name first.
    return Path(base) / "aitorrent" if base.startswith("/") else state / "run"


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The default configuration file; it need not exist."""
    if is_system(environ):
        return SYSTEM_CONFIG
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "aitorrent" / "aitorrent.yaml"


def default_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """The default control socket of this user's daemon."""
    return directories(environ).runtime / SOCKET_NAME
