"""The plugin layer: a second set of packages beside those that the distribution's package owns.

A packaged aitorrentd lives in a virtual environment that belongs to the package manager. Plugins
that an administrator installs go into another one, the layer; the file `plugin-layer` in the first
environment names it. The layer comes after the core on the module path, so no plugin can replace
the core's libraries. An installation without that file (a developer's environment) has no layer;
its plugins are installed beside the core.
"""

from __future__ import annotations

import site
import sys
from pathlib import Path
from typing import Final

MARKER: Final = "plugin-layer"


def layer() -> Path | None:
    """Where the layer is, or would be; None if plugins go beside the core."""
    try:
        text = Path(sys.prefix, MARKER).read_text().strip()
    except OSError:
        return None
    return Path(text) if text.startswith("/") else None


def packages(of: Path) -> Path:
    """The directory of the layer's packages."""
    return of / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def problem(of: Path) -> str:
    """Why the layer cannot be trusted, with the remedy; empty if only root can write it."""
    for directory in (of, packages(of)):
        try:
            status = directory.stat()
        except FileNotFoundError:
            continue
        except OSError as e:
            return f"cannot read {directory}: {e.strerror}"
        if status.st_uid != 0 or status.st_mode & 0o022:
            return (
                f"{directory} is writable by users other than root; run: chown -R root:root "
                f"{of} && chmod -R go-w {of}"
            )
    return ""


def _is_there(directory: Path) -> bool:
    try:
        return directory.is_dir()
    except PermissionError:
        return False  # sandbox units hide it


def activate() -> None:
    """Make the layer's packages importable, after the core's.

    A layer that anyone but root can write is ignored: the daemon would run their code.
    """
    at = layer()
    if at is None or not _is_there(directory := packages(at)):
        return
    if text := problem(at):
        # logging is not set up yet
        print(f"aitorrentd: {text}; ignored", file=sys.stderr)  # noqa: T201
        return
    if str(directory) not in sys.path:
        site.addsitedir(str(directory))
