"""Checks of the machine, the files and the versions that a node depends on; they need no daemon."""

from __future__ import annotations

import ctypes
import grp
import importlib.util
import os
import platform
import shutil
import socket
import stat
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aitorrentd import __version__
from aitorrentd.api import descriptors
from aitorrentd.config import Config
from aitorrentd.config.secrets import HIDDEN, conceal
from aitorrentd.display import bytes_text
from aitorrentd.doctor.findings import Finding
from aitorrentd.errors import ConfigError
from aitorrentd.runtime.identity import load
from aitorrentd.runtime.state_lock import holder
from aitorrentd.system import unit

_MIB: Final = 1024 * 1024
_LOW_DISK_BYTES: Final = 1024 * _MIB
_NO_DISK_BYTES: Final = 100 * _MIB
_MIN_FILES: Final = 1024
_PEERCRED: Final = struct.Struct("iII")
_EARLIEST: Final = 1_767_225_600  # 2026-01-01: this program did not exist earlier
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TRANSPORT_PORT: Final = 8468


def _directories(config: Config) -> Finding:
    state = config.directories.state
    if not state.exists():
        parent = next(p for p in state.parents if p.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding("ok", f"{state} is created at the first start")
        return Finding(
            "fail",
            f"{state} does not exist and cannot be created",
            "set node.state_dir, or create it",
        )
    if state.is_dir() and os.statvfs(state).f_flag & os.ST_RDONLY:
        mount = next(p for p in (state, *state.parents) if p.is_mount())
        remedy = f"mount -o remount,rw {mount} (dmesg shows why), or set node.state_dir"
        return Finding("fail", f"{state} is on a read-only file system", remedy)
    if not state.is_dir() or not os.access(state, os.W_OK | os.X_OK):
        remedy = f"chown {os.geteuid()} {state}, or set node.state_dir"
        return Finding(
            "fail", f"{state} is not a directory that uid {os.geteuid()} can use", remedy
        )
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o022:
        return Finding("fail", f"{state} has mode {mode:04o}", f"chmod go-w {state}")
    if strange := _of_somebody_else(state):
        text = f"{strange} and {state} have different owners: a daemon ran as another user"
        return Finding("fail", text, f"chown -R --reference={state} {state}")
    return Finding("ok", f"{state} is writable")


def _of_somebody_else(state: Path) -> str:
    """A file in the state directory that the directory's owner does not own, or None."""
    owner = state.stat().st_uid
    with os.scandir(state) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_uid != owner:
                return entry.path
    return ""


def _secrecy(config: Config) -> Finding:
    shown = repr(conceal(dict(config.merged.tree)))
    if f"'{HIDDEN}'" not in shown:
        return Finding("ok", "the configuration files contain no secrets")
    for file in config.files:
        if file.stat().st_mode & stat.S_IROTH:
            text = f"{file} is world-readable and the configuration contains secrets"
            return Finding("warn", text, f"chmod o-r {file}, or refer to it: {{file: /path}}")
    return Finding("ok", "files with secrets are private")


def _identity(config: Config) -> Finding:
    file = config.identity_file
    try:
        # Root is inspecting a daemon that runs as another user.
        state = config.directories.state
        owner = state.stat().st_uid if os.geteuid() == 0 and state.exists() else None
        return Finding("ok", f"{file} is the key of {load(file, owner=owner).peer_id}")
    except FileNotFoundError:
        return Finding("ok", f"{file} is created at the first start")
    except ConfigError as e:
        text, _, remedy = e.message.partition("; ")
        return Finding("fail", text, remedy.removeprefix("run: "))


def answers(path: Path) -> bool:
    """Whether the Unix socket `path` accepts connections; starts no daemon."""
    if unit.SYSTEM.sleeps(path):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2.0)
            probe.connect(str(path))
    except OSError:
        return False
    return True


def _control(config: Config) -> Finding:
    path, group = config.socket, config.settings.control.group
    if path is None:
        return Finding("ok", "disabled: control.socket is null")
    if not answers(path):
        if unit.SYSTEM.sleeps(path):
            text = (
                f"no daemon is running; systemd listens at {path} and starts one for the "
                "next client"
            )
            return Finding("warn", text, f"systemctl start {unit.DAEMON}")
        if path.is_socket():
            text = f"{path} was left by a daemon that ended without cleaning up"
            return Finding("warn", text, "start a daemon, which replaces it: aitorrentd")
        if (pid := holder(config.directories.state)) is not None:
            text = f"a daemon is running (pid {pid}), but its control socket {path} is gone"
            return Finding(
                "fail", text, f"wait 10 s for it to be restored; if it is not: kill {pid}"
            )
        is_managed = unit.SYSTEM.serves(path)
        remedy = "systemctl start aitorrentd" if is_managed else "start one: aitorrentd"
        return Finding("warn", f"no daemon answers at {path}", remedy)
    try:
        grp.getgrnam(group)
    except KeyError:
        is_chosen = "group" in config.settings.control.model_fields_set
        if not is_chosen and not unit.SYSTEM.serves(path):
            return Finding("ok", f"a daemon answers at {path}; only root and its user may operate")
        remedy = f"addgroup --system {group}, or set control.group"
        text = f"there is no group {group}: only root and the daemon's user may operate"
        return Finding("warn", text, remedy)
    return Finding("ok", f"a daemon answers at {path}")


def _port(config: Config) -> Finding:
    table = config.settings.plugins.get("transport", {})
    port, listen = table.get("port", _TRANSPORT_PORT), table.get("listen", "0.0.0.0")
    host = listen[0] if isinstance(listen, list) and listen else listen
    if not isinstance(port, int) or not isinstance(host, str):
        return Finding("fail", "plugins.transport does not name a host and a port", "see config")
    if port == 0:
        return Finding("ok", "any free port")
    if config.socket is not None and answers(config.socket):
        return Finding("ok", f"{port}/tcp is used by the running daemon")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as e:
        remedy = "set plugins.transport.port, or 0 for any free one"
        return Finding("fail", f"cannot listen on {host} port {port}/tcp: {e.strerror}", remedy)
    return Finding("ok", f"{port}/tcp is free")


def _disk(config: Config) -> Finding:
    state = config.directories.state
    place = next(p for p in (state, *state.parents) if p.exists())
    free = shutil.disk_usage(place).free
    text = f"{bytes_text(free)} free at {place}"
    remedy = "free some space, or set node.state_dir and node.cache_dir to a larger disk"
    if free < _NO_DISK_BYTES:
        return Finding("fail", text, remedy)
    return Finding("warn", text, remedy) if free < _LOW_DISK_BYTES else Finding("ok", text)


def _clock(config: Config) -> Finding:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    remedy = "timedatectl set-ntp true"
    if time.time() < _EARLIEST:
        return Finding(
            "fail", f"the clock says {shown}; peers will reject this node's certificate", remedy
        )
    # A zeroed struct timex only queries; it is 208 bytes on 64-bit Linux.
    if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == _TIME_ERROR:
        return Finding("warn", f"{shown}; the kernel's clock is not synchronised", remedy)
    return Finding("ok", shown)


def _daemon_pid(path: Path | None) -> int | None:
    """The process that listens at `path`; None if there is none, or it is the service manager."""
    if path is None or unit.SYSTEM.sleeps(path):
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2.0)
            probe.connect(str(path))
            # Set by listen(2), so it is known even when the daemon can accept no connection.
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    except OSError:
        return None
    pid = int(_PEERCRED.unpack(raw)[0])
    return pid if pid > 1 else None


def _limits(config: Config) -> Finding:
    remedy = "raise LimitNOFILE= in the daemon's unit, or ulimit -n where it is started"
    daemon = _daemon_pid(config.socket)
    try:
        found = descriptors.of_process(daemon or os.getpid())
    except (PermissionError, ProcessLookupError):
        text = f"the daemon (process {daemon}) belongs to another user; its limit is not visible"
        return Finding("warn", text, "run as root: aitorrentctl doctor")
    if daemon is None:
        text = f"a process of this user may open {found.limit} files; no daemon was examined"
    else:
        text = f"the daemon has {found.used} of {found.limit} file descriptors in use"
        if found.used >= found.limit - descriptors.reserve(found.limit):
            text += "; the rest are reserved, so it refuses new peers"
            return Finding("fail", text, remedy)
    if found.limit < _MIN_FILES:
        return Finding("warn", f"{text}, which is low for many peers", remedy)
    return Finding("ok", text)


def _versions(config: Config) -> Finding:
    from aitorrentd.installing.target import missing_libraries

    return versions(missing_libraries())


def versions(missing: Sequence[str]) -> Finding:
    """Whether aitorrentd has its libraries; `missing` are the names of those that it lacks."""
    if missing:
        text = f"aitorrentd {__version__} lacks {', '.join(missing)}"
        return Finding("fail", text, "reinstall aitorrentd")
    return Finding("ok", f"aitorrentd {__version__} on Python {platform.python_version()}")


def _extras(config: Config) -> Finding:
    missing = [
        m for m in ("torch", "transformers", "safetensors") if not importlib.util.find_spec(m)
    ]
    if missing:
        text = f"without {', '.join(missing)} this node cannot hold shards of a model"
        return Finding("ok", text, "aitorrentctl plugin install 'aitorrentd[torch]'")
    return Finding("ok", "torch is installed: this node can hold shards of a model")


CHECKS: Final[Sequence[tuple[str, str, Callable[[Config], Finding]]]] = (
    ("directories", "the state directory is writable", _directories),
    ("identity", "the node's key is intact and private", _identity),
    ("secrecy", "secrets are private", _secrecy),
    ("control-socket", "the daemon answers", _control),
    ("port", "the peer port can be bound", _port),
    ("disk", "enough free disk space", _disk),
    ("clock", "the clock is right", _clock),
    ("limits", "the open-file limit is high enough", _limits),
    ("versions", "installed versions", _versions),
    ("extras", "optional dependencies", _extras),
)
"Names, what each checks, and the check."
