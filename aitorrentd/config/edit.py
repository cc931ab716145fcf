"""Changes settings: always in the drop-in `90-set.yaml`, never in a hand-written file."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from aitorrentd.config.document import dump, parse
from aitorrentd.config.load import Config
from aitorrentd.config.read import MAX_FILE_BYTES, read_tree
from aitorrentd.errors import ConfigError, Denied, Unavailable
from aitorrentd.setting_path import key_text, parse_key
from aitorrentd.system.files import replace_file
from aitorrentd.validation import kind_text

_HEADER: Final = "# Written by `aitorrentctl config set`; it overrides the files read before it.\n"
_NOT_ALLOWED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def plan_setting(config: Config, key: str, value: Any) -> tuple[Config, Path, str]:
    """What `write_setting` would do: the resulting configuration, the file and its text.

    Raises:
        ConfigError: the result would be invalid or overridden, or there is no file to write.
    """
    path = parse_key(key)
    file = config.set_file
    if file is None:
        raise ConfigError("this node was configured in code; there is no file to write to")
    try:
        tree = read_tree(file)
    except FileNotFoundError:
        tree = {}
    _put(tree, path, value, key)
    text = _written(tree, file, key)
    try:
        changed = config.reloaded({file: text})
    except ConfigError as e:
        # Without the location: that file does not contain the setting yet.
        place = re.compile(rf" \(in {re.escape(str(file))}(?::\d+)?\)$")
        told = tuple(place.sub("", problem) for problem in e.problems)
        raise ConfigError("; ".join(told), problems=told) from None
    winner = changed.merged.origin(path)
    if not isinstance(value, dict) and winner.rpartition(":")[0] != str(file):
        raise ConfigError(f"{key} would have no effect: {winner} overrides it; change it there")
    return changed, file, text


def write_setting(config: Config, key: str, value: Any) -> Config:
    """Set `key` (`plugins.transport.port`) in the drop-in and return the resulting configuration.

    The file is replaced atomically, so a crash leaves the old or the new one, and only after the
    whole configuration was validated with it. If it is a link, the link's target is replaced.

    Raises:
        ConfigError: as `plan_setting`. Denied: the directory is not writable.
    """
    changed, file, text = plan_setting(config, key, value)
    try:
        target = Path(os.path.realpath(file))
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # For the owner alone: a value may be a secret that was not passed by reference.
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
        replace_file(target, text.encode(), mode=mode)
    except OSError as e:
        if e.errno in _NOT_ALLOWED:
            raise Denied(
                f"cannot write {file}: {e.strerror}; as root put the setting into "
                f"{file.parent}/*.yaml and restart the daemon"
            ) from None
        raise Unavailable(f"cannot write {file}: {e.strerror}") from None
    return changed


def _written(tree: dict[str, Any], file: Path, key: str) -> str:
    """The text of the drop-in, which parses back to the same settings."""
    text = _HEADER + dump(tree)
    if len(text.encode(errors="replace")) > MAX_FILE_BYTES:
        raise ConfigError(f"{key}: {file} would be longer than {MAX_FILE_BYTES} bytes")
    if parse(text, str(file)).tree != tree:
        raise ConfigError(f"{key}: YAML cannot represent this value; write it in quotes")
    return text


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any, key: str) -> None:
    for i, part in enumerate(path[:-1], start=1):
        below = tree.get(part)
        if below is None:
            below = tree[part] = {}
        if not isinstance(below, dict):
            where = key_text(path[:i])
            raise ConfigError(
                f"{key}: {where} is {kind_text(below)}, not a table; set the whole value"
            )
        tree = below
    tree[path[-1]] = value
