"""`aitorrentctl plugin new`: generates a starter project for a plugin.

The files below `template/` end in `.in`; `@NAME@` and the like in their text and in their names are
replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from aitorrentd import __version__
from aitorrentd.errors import Conflict, Denied, InvalidParams, Unavailable
from aitorrentd.installing.plugins import builtin_plugins
from aitorrentd.kernel.found import NAME, RESERVED
from aitorrentd.system.paths import expanded

_SUFFIX: Final = ".in"
_ROOMS: Final = ("package", "suite")
"Directories renamed in the project. None is called `tests`: packagers strip those."


def create(name: str, directory: str | None = None) -> tuple[Path, list[str]]:
    """Write a project for a plugin called `name`; returns its path and its files.

    Raises:
        InvalidParams: not a valid plugin name. Conflict: the directory exists and is not empty.
        Denied, Unavailable: it cannot be written.
    """
    if not NAME.fullmatch(name) or re.search(r"[-_]{2}|[-_]$", name):
        raise InvalidParams(f"{name!r} is not a valid plugin name: {NAME.pattern}")
    if name in RESERVED or name in builtin_plugins():
        raise InvalidParams(f"the name {name} is reserved by aitorrentd")
    package = "aitorrent_" + name.replace("-", "_")
    words = {
        "NAME": name,
        "PACKAGE": package,
        "CLASS": "".join(part.capitalize() for part in re.split(r"[-_]", name)),
        "DIST": package.replace("_", "-"),
        "VERSION": __version__,
    }
    rooms = dict(zip(_ROOMS, (package, "tests"), strict=True))
    root = expanded(Path(directory or words["DIST"]))
    written = []
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise Conflict(
                f"{root} already exists and is not empty; choose another directory with --dir"
            )
        for parts, text in _files(resources.files("aitorrentd.installing") / "template"):
            named = [rooms.get(part) or _filled(part, words) for part in parts]
            file = root.joinpath(*named)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_filled(text, words), encoding="utf-8")
            written.append("/".join(named))
    except PermissionError as e:
        raise Denied(f"no permission to write {e.filename}") from None
    except OSError as e:
        raise Unavailable(f"cannot write {root}: {e.strerror}") from None
    return root, sorted(written)


def _files(room: Traversable, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for entry in room.iterdir():
        if entry.is_dir():
            yield from _files(entry, (*above, entry.name))
        elif entry.name.endswith(_SUFFIX):
            name = entry.name.removesuffix(_SUFFIX)
            yield (*above, name), entry.read_text(encoding="utf-8")


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda m: words[m[1]], text)
