"""The doctor: checks for common problems, each with one remedy.

The core's checks need no daemon: `aitorrentctl doctor` runs them itself when none answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from aitorrentd.config import Config
from aitorrentd.config.plugin_tables import all_problems
from aitorrentd.doctor.findings import Checked, Finding
from aitorrentd.doctor.host import CHECKS
from aitorrentd.errors import ConfigError
from aitorrentd.kernel.found import ranked, unusable
from aitorrentd.kernel.prepare import is_switched_off
from aitorrentd.runtime.identity import load
from aitorrentd.runtime.reload import changed_keys, replaced_outside
from aitorrentd.system.streams import stdout_to_stderr

if TYPE_CHECKING:
    from aitorrentd.kernel.states import PluginRow
    from aitorrentd.runtime.runtime import Runtime

CHECK_TIMEOUT_S: Final = 10.0
_IMPORT_TIMEOUT_S: Final = 30.0


def _run_core(config: Config, check_key: Callable[[], Finding] | None = None) -> list[Checked]:
    """The core's checks; `check_key` replaces the one of the identity."""
    found = []
    for name, summary, check in CHECKS:
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
