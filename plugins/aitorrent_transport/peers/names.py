"""What a peer calls itself, made harmless: a name is a claim, shown to people and never believed.

Only letters, digits, marks, symbols and a few others stay, so that a name can leave no line, table
or pair of quotes that it is shown in, turn the direction of writing, or look like the `…` of a
shortened id.
"""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_NAME_CHARS: Final = 64
"As many as `node.name` takes."
_MAX_RAW_CHARS: Final = 4 * MAX_NAME_CHARS
_ALSO: Final = frozenset(" -_.@+")
_BLANK: Final = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"Letters, marks and a symbol that show nothing: a name of them would look like none."
_MARKS_IN_A_ROW: Final = 2


def told_name(told: object) -> str:
    """The name in a peer's greeting, at most 64 characters; empty when it says none.

    What may not stay shows as the replacement character.
    """
    if not isinstance(told, str):
        return ""
    kept: list[str] = []
    marks = _MARKS_IN_A_ROW  # at the beginning, they would sit on the quote before the name
    for char in unicodedata.normalize("NFC", told[:_MAX_RAW_CHARS]):
        kind = unicodedata.category(char)
        marks = marks + 1 if kind[0] == "M" else _MARKS_IN_A_ROW * char.isspace()
        if marks > _MARKS_IN_A_ROW:
            continue
        is_harmless = kind[0] in "LNM" or kind == "So" or char in _ALSO
        kept.append(char if is_harmless and char not in _BLANK else "\N{REPLACEMENT CHARACTER}")
    return " ".join("".join(kept).split())[:MAX_NAME_CHARS]
