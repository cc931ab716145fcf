"""Reads what is installed on the module path; a damaged distribution costs one sentence.

`importlib.metadata.entry_points` raises at the first distribution that it cannot read, for every
caller and every group. Here each distribution is read separately, and a damaged one is reported and
skipped. Nothing of theirs is imported, and `importlib.metadata` only for distributions outside
directories: its import takes longer than the scan, and most commands would wait for it.

Format: "Entry points specification" and "Recording installed projects", packaging.python.org.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, reduce
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aitorrentd.display import bytes_text
from aitorrentd.errors import InvalidParams
from aitorrentd.system.files import read_regular

if TYPE_CHECKING:
    from importlib import metadata

PLUGINS: Final = "aitorrentd.plugins"
COMMANDS: Final = "aitorrentd.cli"
CORE: Final = "aitorrentd"
_MAX_BYTES: Final = 1024 * 1024
"Limit for entry_points.txt and METADATA; the largest on PyPI have about 300 KiB."
_VALUE: Final = re.compile(
    r"(?P<module>[\w.]+)\s*(:\s*(?P<attr>[\w.]+))?\s*(\[(?P<extras>[^\]]*)\])?\s*"
)


if TYPE_CHECKING:
    Source = Path | metadata.Distribution
    "A distribution: its folder or, in an archive, what a finder says of it."


class DamagedError(Exception):
    """A distribution cannot be read; the message completes "it is damaged: "."""


@dataclass(frozen=True)
class Point:
    """An entry point and the distribution that declares it."""

    group: str
    name: str
    value: str
    dist: str
    version: str

    @cached_property
    def _parts(self) -> re.Match[str]:
        if (found := _VALUE.fullmatch(self.value)) is None:
            raise InvalidParams(
                f"entry point {shown(self.name)!r} of {self.dist} is {shown(self.value)!r}, "
                "which is not of the form `module:attribute`"
            )
        return found

    @property
    def module(self) -> str:
        """The module that it names; InvalidParams if it names none."""
        return self._parts["module"]

    @property
    def extras(self) -> tuple[str, ...]:
        """Extras of `dist` that it needs; InvalidParams as in `module`."""
        listed = (self._parts["extras"] or "").split(",")
        return tuple(extra.strip() for extra in listed if extra.strip())

    def load(self) -> Any:
        """Import the object that it names. Raises InvalidParams as in `module`, and import
        errors."""
        attributes = (self._parts["attr"] or "").split(".") if self._parts["attr"] else ()
        return reduce(getattr, attributes, import_module(self.module))


@dataclass(frozen=True, slots=True)
class Problem:
    """A distribution that cannot be used, or not without a fix."""

    dist: str
    text: str
    "One sentence that names the distribution and the remedy."


@dataclass(slots=True)
class Scan:
    """The requested entry points, and the problems with distributions."""

    points: list[Point] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def normalized(name: str) -> str:
    """A distribution's name in the normalized form used for comparison (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def shown(text: str) -> str:
    """Untrusted text without terminal control characters, bounded in length."""
    clean = "".join(c if c.isprintable() else "�" for c in text)
    return clean if len(clean) <= 100 else f"{clean[:99]}…"


def scan(*groups: str) -> Scan:
    """The entry points in `groups` of every distribution on the module path.

    Of two distributions with the same name, the first on the path counts, as for `import`; of two
    in one directory (an interrupted upgrade), the newer one.
    """
    found = Scan()
    chosen: dict[str, tuple[Path | None, list[Point]]] = {}
    seen: set[str] = set()
    for source in _distributions(found):
        where = source if isinstance(source, Path) else None
        if where is not None:
            # pip renames a distribution to `~…` before removing it, and may be interrupted in
            # between.
            if where.name.startswith("~") or (real := os.path.realpath(where)) in seen:
                continue
            seen.add(real)
        try:
            declared = [entry for entry in _entry_points(source) if entry[0] in groups]
            if not declared:
                continue
            name, version = _name_and_version(source)
        except DamagedError as e:
            found.problems.append(_damaged(source, str(e)))
            continue
        points = [Point(*entry, name, version) for entry in declared]
        key = normalized(name)
        other = chosen[key][0] if key in chosen else None
        if key not in chosen:
            chosen[key] = (where, points)
        elif where is not None and other is not None and other.parent == where.parent:
            newer = max(other, where, key=_changed_at)
            if newer is where:
                chosen[key] = (where, points)
            text = (
                f"distribution {name} is installed twice in {where.parent} ({other.name}, "
                f"{where.name}) and {newer.name} is used; reinstall it: "
                f"pip install --force-reinstall {name}"
            )
            found.problems.append(Problem(name, text))
    found.points = [point for _, points in chosen.values() for point in points]
    return found


def described(dist: metadata.Distribution) -> tuple[str, str, list[tuple[str, str, str]]]:
    """Name, version and entry points (group, name, value) of a distribution.

    Raises:
        DamagedError: it cannot be read.
    """
    source = _source(dist)
    return (*_name_and_version(source), list(_entry_points(source)))


def installed(name: str) -> metadata.Distribution | None:
    """The readable distribution of that name, the first on the module path."""
    from importlib import metadata

    for dist in metadata.distributions(name=name):
        try:
            _name_and_version(_source(dist))
        except DamagedError:
            continue
        return dist
    return None


def _distributions(found: Scan) -> Iterator[Source]:
    """Every distribution on the module path: its folder, or what another finder says of it.

    Like `importlib.metadata.distributions`, but a raising finder does not break the others.
    """
    for finder in sys.meta_path:
        if (find := getattr(finder, "find_distributions", None)) is None:
            continue
        try:
            if finder is PathFinder:
                for entry in sys.path:
                    yield from _in_entry(entry or ".")
            else:
                from importlib import metadata

                yield from map(_source, find(metadata.DistributionFinder.Context()))
        except Exception as e:
            # A fence: a third-party import hook may raise anything.
            kind = type(finder).__name__ if not isinstance(finder, type) else finder.__name__
            text = f"the import hook {shown(kind)} cannot list distributions: {shown(repr(e))}"
            found.problems.append(Problem(kind, text))


def _in_entry(entry: str) -> Iterator[Source]:
    """The distributions in an entry of `sys.path`: a directory, an unpacked egg or an archive."""
    try:
        names = os.listdir(entry)
    except NotADirectoryError:
        from importlib import metadata

        yield from map(_source, metadata.distributions(path=[entry]))
        return
    except OSError:
        return
    is_egg = entry.lower().endswith(".egg")
    for name in names:
        kind = name.lower()
        if kind.endswith((".dist-info", ".egg-info")) or (is_egg and kind == "egg-info"):
            yield Path(entry, name)


def _changed_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _source(dist: metadata.Distribution) -> Source:
    """The distribution's `.dist-info`, or itself in an archive. pip reads the same attribute."""
    where = getattr(dist, "_path", None)
    return where if isinstance(where, Path) else dist


def _text(source: Source, name: str) -> str | None:
    """A metadata file, or None if missing."""
    if not isinstance(source, Path):
        try:
            return source.read_text(name)
        except Exception as e:
            # A fence: an archive, or a third-party class of distribution, may raise anything.
            raise DamagedError(f"{name} cannot be read ({shown(repr(e))})") from None
    try:
        raw = read_regular(source / name, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise DamagedError(f"{name} cannot be read ({e.strerror})") from None
    if len(raw) > _MAX_BYTES:
        raise DamagedError(f"{name} is over {bytes_text(_MAX_BYTES)}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DamagedError(f"{name} is not UTF-8") from None


def _entry_points(source: Source) -> Iterator[tuple[str, str, str]]:
    """(group, name, value) of each entry point."""
    text = _text(source, "entry_points.txt") or ""
    group = None
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            group = line[1:-1].strip()
            continue
        name, has_value, value = line.partition("=")
        if not has_value or group is None:
            what = "has no `=`" if not has_value else "is in no section"
            raise DamagedError(f"line {number} of entry_points.txt {what}: {shown(line)!r}")
        yield group, name.strip(), value.strip()


def _name_and_version(source: Source) -> tuple[str, str]:
    text = _text(source, "METADATA") or _text(source, "PKG-INFO")
    if text is None and isinstance(source, Path) and source.is_file():
        # An egg-info of distutils is one file, and declares no entry points.
        return _name_in(source), "unknown"
    if not text:
        raise DamagedError("it has no METADATA")
    head = _headers(text)
    name = head.get("name", "")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise DamagedError(f"its METADATA names no distribution (Name: {shown(name)})")
    if isinstance(source, Path) and normalized(_name_in(source)) != normalized(name):
        # Otherwise any package could pass for another one, aitorrentd itself included.
        raise DamagedError(f"its METADATA is that of {name}")
    return name, shown(head.get("version") or "unknown")


def _headers(text: str) -> dict[str, str]:
    """The first value of each header of a METADATA file, by lower-case name; one line each."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, has_colon, value = line.partition(":")
        if not has_colon and not line[:1].isspace():
            break  # the description follows
        found.setdefault(name.lower(), value.strip())
    return found


def _name_in(where: Path) -> str:
    """The name in `name-version.dist-info`, `name.egg-info` or `name-version-py3.egg/EGG-INFO`."""
    folder = where.parent.name if where.name == "EGG-INFO" else where.name
    return folder.rpartition(".")[0].partition("-")[0]


def _damaged(source: Source, why: str) -> Problem:
    name, at = type(source).__name__, ""
    if isinstance(source, Path):
        name, at = normalized(_name_in(source)), f" ({shown(str(source))})"
    title = shown(name) or "without a name"
    remedy = f"reinstall it (pip install --force-reinstall {title}) or remove it"
    return Problem(title, f"distribution {title}{at} is damaged and ignored: {why}; {remedy}")
