"""Reads what is installed on the module path; a damaged distribution costs one sentence.

`importlib.metadata.entry_points` raises at the first distribution that it cannot read, for every
caller and every group. Here each distribution is read separately, and a damaged one is reported and
skipped. Nothing is imported.

Format: "Entry points specification" and "Recording installed projects", packaging.python.org.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import HeaderParser
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from aitorrentd.display import bytes_text
from aitorrentd.errors import InvalidParams
from aitorrentd.system.files import read_regular

PLUGINS: Final = "aitorrentd.plugins"
COMMANDS: Final = "aitorrentd.cli"
CORE: Final = "aitorrentd"
_MAX_BYTES: Final = 1024 * 1024
"Limit for entry_points.txt and METADATA; the largest on PyPI have about 300 KiB."
_VALUE: Final = re.compile(
    r"(?P<module>[\w.]+)\s*(:\s*(?P<attr>[\w.]+))?\s*(\[(?P<extras>[^\]]*)\])?\s*"
)


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
                "which is no `module:attribute`"
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
        return metadata.EntryPoint(self._parts[0], self.value, self.group).load()


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
    for dist in _distributions(found):
        where = _folder(dist)
        if where is not None:
            # pip renames a distribution to `~…` before removing it, and may be interrupted in
            # between.
            if where.name.startswith("~") or (real := os.path.realpath(where)) in seen:
                continue
            seen.add(real)
        try:
            declared = [entry for entry in _entry_points(dist, where) if entry[0] in groups]
            if not declared:
                continue
            name, version = _name_and_version(dist, where)
        except DamagedError as e:
            found.problems.append(_damaged(dist, where, str(e)))
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
    where = _folder(dist)
    return (*_name_and_version(dist, where), list(_entry_points(dist, where)))


def installed(name: str) -> metadata.Distribution | None:
    """The readable distribution of that name, the first on the module path."""
    for dist in metadata.distributions(name=name):
        try:
            _name_and_version(dist, _folder(dist))
        except DamagedError:
            continue
        return dist
    return None


def _distributions(found: Scan) -> Iterator[metadata.Distribution]:
    """Like `importlib.metadata.distributions`, but a raising finder does not break the others."""
    context = metadata.DistributionFinder.Context()
    for finder in sys.meta_path:
        if (find := getattr(finder, "find_distributions", None)) is None:
            continue
        try:
            yield from find(context)
        except Exception as e:  # a third-party import hook may raise anything
            kind = type(finder).__name__ if not isinstance(finder, type) else finder.__name__
            text = f"the import hook {shown(kind)} cannot list distributions: {shown(repr(e))}"
            found.problems.append(Problem(kind, text))


def _changed_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _folder(dist: metadata.Distribution) -> Path | None:
    """The distribution's `.dist-info`; None in an archive. pip reads the same attribute."""
    where = getattr(dist, "_path", None)
    return where if isinstance(where, Path) else None


def _text(dist: metadata.Distribution, where: Path | None, name: str) -> str | None:
    """A metadata file, or None if missing."""
    if where is None:
        try:
            return dist.read_text(name)
        except Exception as e:  # an archive, or another class of distribution
            raise DamagedError(f"{name} cannot be read ({shown(repr(e))})") from None
    try:
        raw = read_regular(where / name, _MAX_BYTES)
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


def _entry_points(
    dist: metadata.Distribution, where: Path | None
) -> Iterator[tuple[str, str, str]]:
    """(group, name, value) of each entry point."""
    text = _text(dist, where, "entry_points.txt") or ""
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


def _name_and_version(dist: metadata.Distribution, where: Path | None) -> tuple[str, str]:
    text = _text(dist, where, "METADATA") or _text(dist, where, "PKG-INFO")
    if text is None and where is not None and where.is_file():
        # An egg-info of distutils is one file, and declares no entry points.
        return _name_in(where), "unknown"
    if not text:
        raise DamagedError("it has no METADATA")
    head = HeaderParser().parsestr(text.partition("\n\n")[0])
    name = str(head.get("Name") or "").strip()
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise DamagedError(f"its METADATA names no distribution (Name: {shown(name)})")
    if where is not None and normalized(_name_in(where)) != normalized(name):
        # Otherwise any package could pass for another one, aitorrentd itself included.
        raise DamagedError(f"its METADATA is that of {name}")
    return name, shown(str(head.get("Version") or "unknown").strip())


def _name_in(where: Path) -> str:
    """The name in `name-version.dist-info`, `name.egg-info` or `name-version-py3.egg/EGG-INFO`."""
    folder = where.parent.name if where.name == "EGG-INFO" else where.name
    return folder.rpartition(".")[0].partition("-")[0]


def _damaged(dist: metadata.Distribution, where: Path | None, why: str) -> Problem:
    name = normalized(_name_in(where)) if where is not None else type(dist).__name__
    title = shown(name) or "without a name"
    at = f" ({shown(str(where))})" if where is not None else ""
    remedy = f"reinstall it (pip install --force-reinstall {title}) or remove it"
    return Problem(title, f"distribution {title}{at} is damaged and left out: {why}; {remedy}")
