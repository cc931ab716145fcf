"""What a wheel says about itself, read without running any of its code.

Formats: the binary distribution format (PEP 427), core metadata, and the entry points
specification, all at packaging.python.org.
"""

from __future__ import annotations

import configparser
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Final

from aitorrentd.errors import InvalidParams
from aitorrentd.system.distributions import COMMANDS, PLUGINS, described

_MAX_METADATA_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """A distribution, installed or in a wheel."""

    name: str
    version: str
    plugins: tuple[str, ...] = ()
    "Names of its entry points in `aitorrentd.plugins`."
    commands: tuple[str, ...] = ()
    "Names of its entry points in `aitorrentd.cli`."
    extras: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_plugin(self) -> bool:
        """Whether it provides a plugin or commands."""
        return bool(self.plugins or self.commands)


def of_installed(dist: metadata.Distribution) -> Facts:
    """The facts about an installed distribution.

    Raises:
        DamagedError: it cannot be read.
    """
    name, version, points = described(dist)
    return Facts(
        name,
        version,
        tuple(sorted(point for group, point, _ in points if group == PLUGINS)),
        tuple(sorted(point for group, point, _ in points if group == COMMANDS)),
        tuple(dist.metadata.get_all("Provides-Extra") or ()),
    )


def of_wheel(path: Path) -> Facts:
    """The facts about the distribution in a wheel.

    Raises:
        InvalidParams: it is damaged, or not a wheel.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            if (bad := wheel.testzip()) is not None:
                raise InvalidParams(f"damaged: {bad} in {path.name} has a wrong checksum")
            names = {
                name.rpartition("/")[2]: name
                for name in wheel.namelist()
                if re.fullmatch(r"[^/]+\.dist-info/(METADATA|entry_points\.txt)", name)
            }
            if "METADATA" not in names:
                raise InvalidParams(f"not a wheel: {path.name} has no METADATA")
            text = _text(wheel, names["METADATA"], path)
            points = names.get("entry_points.txt")
            declared = _text(wheel, points, path) if points else ""
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise InvalidParams(f"damaged, or not a wheel: {path.name}: {e}") from None
    except OSError as e:
        raise InvalidParams(f"cannot read {path}: {e.strerror}") from None
    head = HeaderParser().parsestr(text)
    name, version = head.get("Name", ""), head.get("Version", "")
    if not name or not version:
        raise InvalidParams(f"not a wheel: the METADATA of {path.name} names no distribution")
    groups = _entry_points(declared, path)
    extras = tuple(str(extra) for extra in head.get_all("Provides-Extra") or ())
    plugins, commands = (tuple(sorted(groups.get(g, ()))) for g in (PLUGINS, COMMANDS))
    return Facts(name, version, plugins, commands, extras)


def _text(wheel: zipfile.ZipFile, name: str, path: Path) -> str:
    if wheel.getinfo(name).file_size > _MAX_METADATA_BYTES:
        raise InvalidParams(
            f"not a wheel: {name} in {path.name} is over {_MAX_METADATA_BYTES} bytes"
        )
    try:
        return wheel.read(name).decode()
    except UnicodeDecodeError:
        raise InvalidParams(f"damaged: {name} in {path.name} is not UTF-8") from None


def _entry_points(text: str, path: Path) -> dict[str, list[str]]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
    try:
        parser.read_string(text)
    except configparser.Error:
        raise InvalidParams(f"damaged: cannot parse the entry points of {path.name}") from None
    return {section: list(parser[section]) for section in parser.sections()}
