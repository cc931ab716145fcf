"""Changing settings: always in the drop-in `90-set.yaml`, never in a file that a person wrote."""

from __future__ import annotations

import copy
import errno
from pathlib import Path
from typing import Any, Final

from aitorrentd.config.documents import dump, parse_key, read
from aitorrentd.config.load import Config
from aitorrentd.errors import ConfigError, Denied, Unavailable
from aitorrentd.system.files import replace_file

_HEADER: Final = "# Written by `aitorrentctl config set`; it wins over the files before it.\n"
_NOT_ALLOWED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def plan_setting(config: Config, key: str, value: Any) -> tuple[Config, Path, dict[str, Any]]:
    """What `write_setting` would do: the configuration as it would be, the file and its content.

    Raises:
        ConfigError: the result would not be valid, or there is no file to write to.
    """
    path = parse_key(key)
    file = config.set_file
    if file is None:
        raise ConfigError("this node was configured in code: there is no file to write to")
    tree = _present(file)
    _put(tree, path, value, key)
    try:
        return config.reloaded({file: tree}), file, tree
    except ConfigError as e:
        # It would be in that file, where nobody finds it now.
        told = tuple(problem.removesuffix(f" (in {file})") for problem in e.problems)
        raise ConfigError("; ".join(told), problems=told) from None


def write_setting(config: Config, key: str, value: Any) -> Config:
    """Set `key` (`plugins.transport.port`) in the drop-in and return the configuration with it.

    The file is replaced in one step, so a crash leaves the old or the new one, and only after the
    whole configuration was validated with it.

    Raises:
        ConfigError: as `plan_setting`. Denied: the directory is not writable.
    """
    changed, file, tree = plan_setting(config, key, value)
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # For the owner alone: a value may be a secret that somebody did not pass by reference.
        replace_file(file, (_HEADER + dump(tree)).encode(), mode=0o600)
    except OSError as e:
        if e.errno in _NOT_ALLOWED:
            raise Denied(
                f"cannot write {file}: {e.strerror}; as root put the setting into "
                f"{file.parent}/*.yaml and restart the daemon"
            ) from None
        raise Unavailable(f"cannot write {file}: {e.strerror}") from None
    return changed


def _present(file: Path) -> dict[str, Any]:
    try:
        return copy.deepcopy(read(file))
    except FileNotFoundError:
        return {}


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any, key: str) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        if below is None:
            below = tree[part] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{key}: {part} is a value, not a table")
        tree = below
    tree[path[-1]] = value
