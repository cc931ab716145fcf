"""Handmade distributions, intact and damaged, for a directory on the module path."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CASES: Final = Path(__file__).parents[1] / "cases" / "daemon" / "plugins"

METADATA: Final = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


def distribution(
    site: Path,
    name: str,
    *,
    plugins: str = "",
    commands: str = "",
    version: str = "1",
    metadata: bytes | None = b"",
    entry_points: bytes | None = None,
    module: str = "",
) -> Path:
    """Create `name` in `site`; returns its `.dist-info`.

    With `metadata` None the file is omitted, with empty bytes a valid one is written;
    `entry_points` replaces the lines for the two groups; `module` is the source of a module named
    like the distribution.
    """
    site.mkdir(parents=True, exist_ok=True)
    folded = name.replace("-", "_")
    folder = site / f"{folded}-{version}.dist-info"
    folder.mkdir()
    if metadata is not None:
        good = METADATA.format(name=name, version=version).encode()
        (folder / "METADATA").write_bytes(metadata or good)
    lines = f"[aitorrentd.plugins]\n{plugins}\n[aitorrentd.cli]\n{commands}\n".encode()
    (folder / "entry_points.txt").write_bytes(lines if entry_points is None else entry_points)
    if module:
        (site / f"{folded}.py").write_text(module)
    return folder


COMMANDS_MODULE: Final = """\
{first}
COMMANDS = {{"{command}": "Its own."}}


def register(app):
    @app.command("{command}")
    def run():
        print("from {command}")
"""


def commands_module(command: str, first: str = "") -> str:
    """The source of a module that adds one command; `first` runs when it is imported."""
    return COMMANDS_MODULE.format(command=command, first=first)
