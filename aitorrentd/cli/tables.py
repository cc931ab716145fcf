"""Lays out tables for display: aligned columns that fit the terminal.

A terminal that is too narrow gets fewer columns and a wrapped last column; a pipe gets everything,
one line per row.
"""

from __future__ import annotations

import os
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Final, TextIO

_GAP: Final = "  "
_LEAST_LAST: Final = 36
"The last column is never wrapped narrower than this."


def terminal_columns(stream: TextIO | None = None) -> int | None:
    """The width of the terminal behind a stream, by default stdout; None if it is not one."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    return (
        int(said)
        if said.isdecimal() and int(said)
        else os.get_terminal_size(stream.fileno()).columns
    )


def shown_width(text: str) -> int:
    """Terminal columns that `text` occupies: two for wide characters, none for combining marks."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def wrapped(text: str, *, indent: int = 2) -> list[str]:
    """The lines of a sentence; on a terminal wrapped at words, with a hanging indent."""
    width = terminal_columns()
    if width is None:
        return [text]
    return textwrap.wrap(text, max(width, _LEAST_LAST), subsequent_indent=" " * indent) or [""]


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - shown_width(text))
    return space + text if right else text + space


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(shown_width, cells)) for cells in zip(*lines, strict=True)]


def fitting(lines: Sequence[Sequence[str]], drop: Sequence[int], width: int | None) -> list[int]:
    """Which columns to show: drop those in `drop`, first one first, until the rest with a last
    column of 36 fits into `width`."""
    shown = list(range(len(lines[0])))
    widths = _widths(lines)
    for column in drop if width is not None else ():
        *others, last = (widths[i] for i in shown)
        if sum(others) + len(_GAP) * len(others) + min(last, _LEAST_LAST) <= (width or 0):
            break
        shown.remove(column)
    return shown


def aligned(
    lines: Sequence[Sequence[str]], is_right: Sequence[bool], width: int | None
) -> list[str]:
    """The lines of a table; a last text column that exceeds `width` continues on further lines."""
    widths = _widths(lines)
    before = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    room = max((width or 0) - before, _LEAST_LAST)
    is_wrapped = width is not None and widths[-1] > room and not is_right[-1]
    text = []
    for line in lines:
        lasts = textwrap.wrap(line[-1], room) if is_wrapped and line[-1] else [line[-1]]
        cells = zip([*line[:-1], lasts[0]], widths, is_right, strict=True)
        text.append(_GAP.join(_pad(c, w, right=r) for c, w, r in cells).rstrip())
        text += [" " * before + part for part in lasts[1:]]
    return text
