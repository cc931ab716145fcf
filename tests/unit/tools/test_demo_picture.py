"""The README's picture is drawn from the recording that lies beside it, word for word."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tools.demo_picture import COLUMNS, PICTURE, RECORDING, ROOT, draw, shown

SVG = "{http://www.w3.org/2000/svg}"


def rows(picture: str) -> list[str]:
    """The text of each row of the window."""
    window = ElementTree.fromstring(picture)
    return [text.text or "" for text in window.iter(f"{SVG}text") if text.get("class") != "name"]


def test_picture_is_that_of_the_recording() -> None:
    assert PICTURE.read_text() == draw(RECORDING.read_text()), "run tools/demo_picture.py"


def test_picture_holds_every_word_of_the_recording_as_text() -> None:
    drawn = rows(PICTURE.read_text())
    assert " ".join(drawn).split() == RECORDING.read_text().split()
    assert "  ada  layers 0-3  12D3Koo" in "\n".join(drawn)
    assert max(map(len, drawn)) <= COLUMNS


def test_readme_shows_the_picture() -> None:
    name = str(PICTURE.relative_to(ROOT))
    assert re.search(rf"!\[[^\]]+\]\({re.escape(name)}\)", (ROOT / "README.md").read_text())


def test_output_cannot_break_the_picture() -> None:
    assert rows(draw("$ echo '<b>&amp;</b>'\n\n\"5 < 6\" & co.\n")) == [
        "$ echo '<b>&amp;</b>'",
        '"5 < 6" & co.',
    ]


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        ("one\r\ntwo\r\n", ["one", "two", ""]),
        ("loading 3 %\rloading 9 %\r\x1b[Kdone", ["done"]),
        ("\rwaiting\x1b[K\r\x1b[K  ada  layers 0-3", ["  ada  layers 0-3"]),
        ("abcdef\rxy", ["xycdef"]),
        ("\x1b[1mbold\x1b[0m and \x07plain", ["bold and plain"]),
    ],
)
def test_what_a_terminal_shows_in_the_end(output: str, lines: list[str]) -> None:
    assert list(shown(output)) == lines
