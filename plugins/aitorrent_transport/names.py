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
_MARKS_IN_A_ROW: Final = 2


def told_name(told: object) -> str:
    """The name in a peer's greeting, at most 64 characters; empty when it says none.

    What may not stay shows as the replacement character.
    """
    if not isinstance(told, str):
        return ""
    kept: list[str] = []
    marks = 0
    for char in unicodedata.normalize("NFC", told[:_MAX_RAW_CHARS]):
        kind = unicodedata.category(char)
        marks = marks + 1 if kind[0] == "M" else 0
        if marks > _MARKS_IN_A_ROW:
            continue
        kept.append(
            char
            if kind[0] in "LNM" or kind == "So" or char in _ALSO
            else "\N{REPLACEMENT CHARACTER}"
        )
    return " ".join("".join(kept).split())[:MAX_NAME_CHARS]
