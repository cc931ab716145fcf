"""Draws the picture of the README: `demo_picture.py [--record]`.

`--record` runs `make demo` in its own terminal and saves the output to `docs/pictures/demo.txt`.
Without it only `docs/pictures/demo.svg` is drawn, from that recording.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
RECORDING: Final = ROOT / "docs" / "pictures" / "demo.txt"
PICTURE: Final = ROOT / "docs" / "pictures" / "demo.svg"
COLUMNS: Final = 92
FONT_PX: Final = 14
LINE_PX: Final = 20
CELL_PX: Final = 8.5
"Slightly more than a cell of the widest common monospace font (0.602 em)."
BORDER_PX: Final = 20
BAR_PX: Final = 36
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*([A-Za-z])|[\x00-\x08\x0b-\x1f]")
_DETAIL: Final = re.compile(r"Starting|Stopped|  \w+  layers|\d+ tokens,|layers \d")

STYLE: Final = """
  .window { fill: #ffffff; stroke: #d0d7de }
  .bar { fill: #f6f8fa; stroke: #d0d7de }
  .dot { fill: #d0d7de }
  text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
         fill: #1f2328; white-space: pre }
  .command { font-weight: bold; fill: #116329 }
  .detail, .name { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    .window { fill: #0d1117; stroke: #3d444d }
    .bar { fill: #151b23; stroke: #3d444d }
    .dot { fill: #3d444d }
    text { fill: #f0f6fc }
    .command { fill: #7ee787 }
    .detail, .name { fill: #9198a1 }
  }
"""


def record() -> str:
    """Terminal output of `make demo`, preceded by the command.

    Raises:
        SystemExit: the demo failed.
    """
    seen = bytearray()

    def read(fd: int) -> bytes:
        new = os.read(fd, 4096)
        seen.extend(new)
        return new

    os.environ |= {"COLUMNS": str(COLUMNS), "TERM": "xterm"}
    status = pty.spawn(["make", "--no-print-directory", "-C", str(ROOT), "demo"], read)
    if status:
        raise SystemExit("demo_picture: the demo failed; the recording stays as it is")
    return "$ make demo\n" + "\n".join(shown(seen.decode())).strip() + "\n"


def shown(output: str) -> Iterator[str]:
    """The lines that remain on a terminal after carriage returns and erasures."""
    for line in output.replace("\r\n", "\n").split("\n"):
        kept = ""
        for piece in line.split("\r"):
            written, erase, _ = piece.partition("\x1b[K")
            text = _CONTROL.sub("", written)
            rest = _CONTROL.sub("", piece[len(written) :])
            kept = text + rest if erase else text + kept[len(text) :]
        yield kept.rstrip()


def wrapped(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each row of the picture, wrapped at words, with its style."""
    for line in lines:
        style = "command" if line.startswith("$ ") else "detail" if _DETAIL.match(line) else ""
        for row in textwrap.wrap(line, COLUMNS, drop_whitespace=False) or [""]:
            yield row.rstrip(), style


def draw(recording: str) -> str:
    """The recording as a terminal window in SVG, light or dark like the reader's system."""
    rows = list(wrapped(recording.splitlines()))
    width = round(COLUMNS * CELL_PX) + 2 * BORDER_PX
    height = BAR_PX + len(rows) * LINE_PX + 2 * BORDER_PX - (LINE_PX - FONT_PX)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" xml:space="preserve" role="img" aria-labelledby="title">',
        '<title id="title">make demo: three nodes answer a question together</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="window" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        '<path class="bar" '
        f'd="M.5 {BAR_PX}V8.5a8 8 0 0 1 8-8H{width - 8.5}a8 8 0 0 1 8 8V{BAR_PX}z"/>',
        *(f'<circle class="dot" cx="{x}" cy="18" r="6"/>' for x in (20, 40, 60)),
        f'<text class="name" x="{width / 2:g}" y="23" text-anchor="middle">aitorrentd</text>',
    ]
    for number, (row, style) in enumerate(rows):
        y = BAR_PX + BORDER_PX + FONT_PX - 3 + number * LINE_PX
        named = f' class="{style}"' if style else ""
        if row:
            parts.append(f'<text{named} x="{BORDER_PX}" y="{y}">{escape(row, quote=False)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Record if requested, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="run the demo first")
    if parser.parse_args().record:
        RECORDING.write_text(record())
    PICTURE.write_text(draw(RECORDING.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
