"""The doctor: checks for common problems, each with one remedy.

The core's checks need no daemon: `aitorrentctl doctor` runs them itself when none answers.
"""

from __future__ import annotations

import asyncio
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from aitorrentd import __version__
from aitorrentd.api import descriptors
from aitorrentd.config import Config
from aitorrentd.config.plugin_tables import all_problems
from aitorrentd.config.secrets import HIDDEN, conceal
from aitorrentd.display import bytes_text
from aitorrentd.errors import ConfigError
from aitorrentd.kernel.found import ranked, unusable
from aitorrentd.kernel.prepare import is_switched_off
from aitorrentd.runtime.identity import load
from aitorrentd.runtime.reload import changed_keys, replaced_outside
from aitorrentd.runtime.state_lock import holder
from aitorrentd.system import unit
from aitorrentd.system.streams import stdout_to_stderr

if TYPE_CHECKING:
    from aitorrentd.kernel.states import PluginRow
    from aitorrentd.runtime.runtime import Runtime

CHECK_TIMEOUT_S: Final = 10.0
_IMPORT_TIMEOUT_S: Final = 30.0
_MIB: Final = 1024 * 1024
_LOW_DISK_BYTES: Final = 1024 * _MIB
_NO_DISK_BYTES: Final = 100 * _MIB
_MIN_FILES: Final = 1024
_PEERCRED: Final = struct.Struct("iII")
_EARLIEST: Final = 1_767_225_600  # 2026-01-01: this program did not exist earlier
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_TRANSPORT_PORT: Final = 8468


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of one check."""

    name: str
    plugin: str
    summary: str
    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


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


_CORE: Final[Sequence[tuple[str, str, Callable[[Config], Finding]]]] = (
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


def _run_core(config: Config, check_key: Callable[[], Finding] | None = None) -> list[Checked]:
    """The core's checks; `check_key` replaces the one of the identity."""
    found = []
    for name, summary, check in _CORE:
        try:
            result = check_key() if check_key and name == "identity" else check(config)
        except OSError as e:
            result = Finding("fail", f"cannot check: {e.strerror}", "check the permissions")
        found.append(Checked(name, "core", summary, result.status, result.text, result.remedy))
    return found


async def _run_config(config: Config) -> Checked:
    files = ", ".join(str(file) for file in config.files) or "defaults only"
    wrong = await all_problems(config)
    if wrong:
        remedy = "fix the setting, then run: aitorrentctl config check"
        return Checked("config", "core", "settings are valid", "fail", "; ".join(wrong), remedy)
    return Checked("config", "core", "settings are valid", "ok", files)


async def _check_files(runtime: Runtime) -> Checked:
    """Check what the next start or reload would read, and that the running node has read it."""
    config = runtime.config
    if config.source.path is None:
        return await _run_config(config)
    name, summary = "config", "settings are valid"
    try:
        new = await asyncio.to_thread(config.reloaded)
    except ConfigError as e:
        wrong = await all_problems(e, runtime.sources)
    else:
        wrong = await all_problems(new, runtime.sources)
    if wrong:
        text = f"the next start or reload would reject these settings: {'; '.join(wrong)}"
        remedy = "correct them, then run: aitorrentctl config check"
        return Checked(name, "core", summary, "fail", text, remedy)
    if stale := replaced_outside(new):
        text, _, remedy = "; ".join(stale).rpartition("; ")
        return Checked(name, "core", summary, "warn", text, remedy)
    if changed := changed_keys(config, new):
        text = f"the files have changed since they were read: {', '.join(changed)}"
        return Checked(name, "core", summary, "warn", text, "aitorrentctl config reload")
    files = ", ".join(map(str, config.files)) or "defaults only"
    return Checked(name, "core", summary, "ok", files)


def _check_key(runtime: Runtime) -> Finding:
    """Check that the next start would find the key of the running node."""
    file = runtime.config.identity_file
    remedy = f"restore {file} from a backup, or the node gets a new id at the next start"
    try:
        found = load(file).peer_id
    except FileNotFoundError:
        return Finding("fail", f"{file} is gone; the key of this node is only in memory", remedy)
    except ConfigError as e:
        return Finding("fail", e.message, remedy)
    if found != runtime.id:
        return Finding("fail", f"{file} now has the key of {found}, not of this node", remedy)
    return Finding("ok", f"{file} is the key of {found}")


def _noticed(runtime: Runtime) -> Checked:
    name, summary = "process", "the log and the control socket work"
    found = [warning for notice in runtime.notices if (warning := notice()) is not None]
    if not found:
        return Checked(name, "core", summary, "ok", "log and control socket: both work")
    status: Literal["warn", "fail"] = "warn"
    if any(warning.severity == "error" for warning in found):
        status = "fail"
    text, _, remedy = "; ".join(warning.text for warning in found).rpartition("; ")
    return Checked(name, "core", summary, status, text, remedy.removeprefix("run: "))


def beside(config: Config) -> list[str]:
    """What a start would report about distributions other than aitorrentd, one sentence each.

    Imports enabled third-party plugins. Must not be called from a running event loop.
    """
    tables = config.settings.plugins

    def is_off(name: str) -> bool:
        return is_switched_off(tables.get(name))

    with stdout_to_stderr():
        return asyncio.run(unusable(left_out=is_off, timeout_s=_IMPORT_TIMEOUT_S))


def _distributions(wrong: Sequence[str]) -> Checked:
    name, summary = "distributions", "distributions next to aitorrentd are intact"
    if wrong:
        remedy = "see the message; `pip list` shows the installed packages"
        return Checked(name, "core", summary, "warn", "; ".join(wrong), remedy)
    return Checked(name, "core", summary, "ok", "all of them are readable")


def run_offline(config_path: str | Path | None = None) -> list[dict[str, Any]]:
    """The core's checks without a daemon, in the form of node.doctor's `checks`.

    Must not be called from a running event loop.
    """
    try:
        config = Config.load(config_path, outside=True)
    except ConfigError as e:
        remedy = "fix the file, then run: aitorrentctl config check"
        with stdout_to_stderr():
            text = "; ".join(asyncio.run(all_problems(e)))
        return [asdict(Checked("config", "core", "settings are valid", "fail", text, remedy))]
    with stdout_to_stderr():
        checked = asyncio.run(_run_config(config))
    return [asdict(c) for c in (checked, *_run_core(config), _distributions(beside(config)))]


def _run_plugins(runtime: Runtime) -> Checked:
    # Values of PluginState; a plugin that is only skipped or disabled is fine.
    ill = ("broken", "invalid", "failed", "blocked")
    rows = [row for row in runtime.kernel.rows() if row.state in ill]
    # a blocked plugin waits for one of the others
    rows.sort(key=lambda row: row.state == "blocked")
    summary = "plugins are running"
    if rows:
        text = "; ".join(f"{_title(row)} is {row.state}: {row.detail}" for row in rows)
        remedy = f"see: aitorrentctl plugin info {rows[0].name}"
        return Checked("plugins", "core", summary, "fail", text, remedy)
    running = sum(row.state == "running" for row in runtime.kernel.rows())
    return Checked("plugins", "core", summary, "ok", f"{running} plugins are running")


def _title(row: PluginRow) -> str:
    return row.name if row.tier == "builtin" else f"{row.name} (of {row.dist})"


async def run_checks(runtime: Runtime, plugin: str | None = None) -> list[Checked]:
    """The checks of a running node: the core's and its plugins', or those of one plugin."""
    found: list[Checked] = []
    if plugin in (None, "core"):
        found.append(await _check_files(runtime))
        found += await asyncio.to_thread(_run_core, runtime.config, lambda: _check_key(runtime))
        found.append(_noticed(runtime))
        found.append(_run_plugins(runtime))
        wrong = await asyncio.to_thread(ranked, runtime.sources)
        found.append(_distributions([text for _, text in wrong.problems]))
    for owner, check in runtime.kernel.checks():
        if plugin not in (None, owner):
            continue
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                result = await check.run()
            status, text, remedy = result.status, result.text, result.remedy
        except TimeoutError:
            status, text, remedy = "fail", f"no result within {CHECK_TIMEOUT_S:g} s", "see the log"
        except Exception as e:  # the fence of method calls: checks are plugin code
            runtime.log.exception("the check %s of plugin %s failed", check.name, owner)
            status, text = "fail", f"the check itself failed: {type(e).__name__}"
            remedy = "see the log"
        found.append(Checked(check.name, owner, check.summary, status, text, remedy))
    return found
