"""Manual pages as text: the few man(7) macros that ours need.

All text is escaped, so a page shows exactly the text that it was given.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Final

_MARKS: Final = re.compile(r"`([^`\n]+)`")
_NOT_ASCII: Final = {"…": "...", "–": "-", "—": "-", "→": "->", "’": "'", "“": '"', "”": '"'}


def escaped(text: str) -> str:
    """`text` escaped so that troff prints it verbatim, hyphens as typed minus signs."""
    for character, plain in _NOT_ASCII.items():
        text = text.replace(character, plain)
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in text)
    return re.sub(r"(?m)^\.", r"\\&.", text)


def marked(text: str) -> str:
    """Like `escaped`, with backquoted text in bold."""
    return _MARKS.sub(r"\\fB\1\\fR", escaped(text))


class Page:
    """One manual page. The caller names and orders the sections of man-pages(7)."""

    def __init__(self, name: str, section: int, *, version: str, about: str) -> None:
        self.name = name
        self.section = section
        self._lines = [
            f'.TH {escaped(name).upper()} {section} "" "aitorrentd {version}" "aitorrentd"'
        ]
        self.heading("NAME")
        self._lines.append(f"{escaped(name)} \\- {escaped(about)}")

    @property
    def file_name(self) -> str:
        """File name, as man(1) expects it: `aitorrentctl.1`."""
        return f"{self.name}.{self.section}"

    def heading(self, title: str) -> None:
        """A section."""
        self._lines.append(f'.SH "{escaped(title)}"')

    def subheading(self, title: str) -> None:
        """A subsection."""
        self._lines.append(f'.SS "{escaped(title)}"')

    def text(self, text: str) -> None:
        """Paragraphs, separated by empty lines; `backquotes` make bold."""
        for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text).strip()):
            self._lines += [".PP", marked(" ".join(paragraph.split()))]

    def entry(self, term: str, text: str, *details: str) -> None:
        """A term, its meaning, and lines below that."""
        self._lines += [".TP", f"\\fB{escaped(term)}\\fR", marked(" ".join(text.split())) or "\\&"]
        for detail in details:
            self._lines += [".br", marked(" ".join(detail.split()))]

    def example(self, lines: str) -> None:
        """Preformatted lines."""
        body = textwrap.dedent(lines).strip("\n")
        self._lines += [".PP", ".RS 4", ".EX", escaped(body), ".EE", ".RE"]

    def see_also(self, pages: Iterable[str]) -> None:
        """References such as `aitorrentd(8)`."""
        shown = []
        for page in pages:
            name, _, rest = page.partition("(")
            shown.append(f"\\fB{escaped(name)}\\fR({rest}")
        self.heading("SEE ALSO")
        self._lines.append(", ".join(shown))

    def render(self) -> str:
        """The page."""
        return "\n".join(self._lines) + "\n"
