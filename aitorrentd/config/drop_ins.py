"""Which files make up a configuration. A file that looks intended but would be ignored is an error.

`aitorrent.yaml`, then `aitorrent.yaml.d/*.yaml` in the order of their names. Skipped are hidden
files, leftovers of editors and package managers, `*.disabled`, and files whose names show that they
are not configuration.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

from aitorrentd.errors import ConfigError

SET_FILE: Final = "90-set.yaml"
"The drop-in that `config set` and `plugin enable` write."

_CONTENT: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
    | {errno.EINVAL, errno.ENXIO}
)
_LEFTOVER: Final = re.compile(
    r"~$|^#.*#$|\.(?:bak|old|orig|rej|save|swp|tmp|disabled|example|sample|rpmnew|rpmsave)$"
    r"|\.(?:dpkg|ucf)-[a-z]+$",
    re.I,
)
_CONFIGURATION: Final = re.compile(r"\.ya?ml\b|\.(?:json|toml|ini|conf|cfg)$", re.I)


class UnreadableConfig(ConfigError):
    """A configuration file cannot be read now, whatever its contents.

    `is_denied`: permission was denied; otherwise the machine failed (an input/output error).
    """

    def __init__(self, message: str, *, is_denied: bool = False) -> None:
        super().__init__(message)
        self.is_denied = is_denied


def drop_in_dir(path: Path) -> Path:
    """The drop-in directory of a configuration file: `aitorrent.yaml.d`."""
    return path.with_name(path.name + ".d")


def drop_ins(path: Path) -> tuple[list[Path], list[ConfigError]]:
    """The drop-ins of `path` in the order of their names, and the problems with the others."""
    directory = drop_in_dir(path)
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        if directory.is_symlink():
            return [], [ConfigError(link_problem(directory))]
        return [], []
    except NotADirectoryError:
        text = f"{directory} is not a directory; drop-ins are the *.yaml files in a directory"
        return [], [ConfigError(f"{text} of that name")]
    except OSError as e:
        return [], [unreadable(e, directory)]
    found, wrong = [], []
    for name in names:
        if name.startswith(".") or _LEFTOVER.search(name):
            continue
        if name.endswith(".yaml"):
            found.append(directory / name)
        elif _CONFIGURATION.search(name):
            stem = re.split(_CONFIGURATION, name)[0]
            wrong.append(
                ConfigError(
                    f"{directory / name!s} would be ignored: drop-in names must end in .yaml; "
                    f"rename it to {stem}.yaml, or to {name}.disabled to leave it out"
                )
            )
    return found, wrong


def mistaken_name(path: Path) -> ConfigError | None:
    """Problems where the default file, or its drop-ins, exist under a similar but wrong name."""
    near = [path.with_suffix(suffix) for suffix in (".yml", ".YML", ".YAML", ".json")]
    for file in near:
        if os.path.lexists(file):
            return ConfigError(f"{file} would be ignored: rename it to {path.name}")
    for directory in (*map(drop_in_dir, near[:1]), path.with_suffix(".d")):
        if os.path.lexists(directory):
            return ConfigError(
                f"{directory} would be ignored: rename it to {drop_in_dir(path).name}"
            )
    return None


def link_problem(path: Path) -> str:
    """Report a link that points to nothing."""
    return (
        f"{path} is a link to {os.readlink(path)}, which does not exist; "
        "create that file, or remove the link"
    )


def is_content(error: OSError) -> bool:
    """Whether a file cannot be read because of what it is, not because of the machine."""
    return error.errno in _CONTENT


def unreadable(error: OSError, path: Path) -> ConfigError:
    """Why `path` cannot be read; an UnreadableConfig if its contents are not to blame."""
    if isinstance(error, PermissionError):
        return UnreadableConfig(
            f"{path}: permission denied; the user that runs the daemon must be able to read it",
            is_denied=True,
        )
    if path.is_dir():
        return ConfigError(f"{path} is a directory, not a configuration file")
    text = f"cannot read {path}: {error.strerror}"
    return ConfigError(text) if is_content(error) else UnreadableConfig(text)
