"""Sanitised peer names: a name is a claim, displayed but never trusted.

Only letters, digits, marks, symbols and a few other characters are kept, so a name cannot break out
of its line, table cell or quotes, change the text direction, or imitate the `…` of a shortened id.
"""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_NAME_CHARS: Final = 64
"Same limit as `node.name`."
_MAX_RAW_CHARS: Final = 4 * MAX_NAME_CHARS
_ALSO: Final = frozenset(" -_.@+")
_BLANK: Final = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"Letters, marks and a symbol that render blank: a name made of them would look empty."
_MARKS_IN_A_ROW: Final = 2


def told_name(told: object) -> str:
    """The name in a peer's greeting, at most 64 characters; empty if it has none.

    Disallowed characters become the replacement character.
    """
    if not isinstance(told, str):
        return ""
    kept: list[str] = []
    marks = _MARKS_IN_A_ROW  # leading marks would combine with the opening quote
    for char in unicodedata.normalize("NFC", told[:_MAX_RAW_CHARS]):
        kind = unicodedata.category(char)
        marks = marks + 1 if kind[0] == "M" else _MARKS_IN_A_ROW * char.isspace()
        if marks > _MARKS_IN_A_ROW:
            continue
        is_harmless = kind[0] in "LNM" or kind == "So" or char in _ALSO
        kept.append(char if is_harmless and char not in _BLANK else "\N{REPLACEMENT CHARACTER}")
    return " ".join("".join(kept).split())[:MAX_NAME_CHARS]
