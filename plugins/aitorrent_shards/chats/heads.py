"""Whether an answer begins with a call as Llama 3 writes it, told from its start. No I/O.

Nothing but the beginning tells such a call from an answer in JSON, so an object counts as a call
only once it names an offered tool and goes on with its parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

_SPACE: Final = " \t\r\n"
_KEYS: Final = ('"parameters"', '"arguments"')


def could_be_call(text: str, names: Collection[str]) -> bool | None:
    """Whether `text` begins a call; None while more characters have to tell."""
    quoted = [f'"{name}"' for name in names]
    short: list[Collection[str]] = [["{"], ['"name"'], [":"], quoted, [","], _KEYS, [":"]]
    long: list[Collection[str]] = [["{"], ['"type"'], [":"], ['"function"'], [","], *short[1:]]
    found = [_follows(text, expected) for expected in (short, long)]
    if True in found:
        return True
    return None if None in found else False


def _follows(text: str, expected: Iterable[Collection[str]]) -> bool | None:
    for words in expected:
        text = text.lstrip(_SPACE)
        if not text:
            return None
        word = next((w for w in words if text.startswith(w)), None)
        if word is None:
            return None if any(w.startswith(text) for w in words) else False
        text = text[len(word) :]
    return True
