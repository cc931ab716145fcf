"""The text that the demo model learns: conversations made from the facts in `facts.toml`.

Small words, case and punctuation of the questions vary at random, so that the model learns the
question rather than one spelling of it. Questions about anything else get a polite refusal.
"""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer and the questions that lead to it."""

    answer: str
    questions: tuple[str, ...]


_FILE: Final[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "facts.toml").read_text())
FACTS: Final = tuple(Fact(f["answer"], tuple(f["questions"])) for f in _FILE["fact"])
REFUSAL: Final[str] = _FILE["unknown"]["answer"]
_PREFIXES: Final = ("", "", "", "", "Please: ", "Hi, ", "Hello, ", "Hey, ", "So, ", "And ")
_ENDS: Final = ("?", "?", "?", "", ".", "!", " ?")
_TURNS: Final = (1, 1, 1, 2, 3)
_UNKNOWN_SHARE: Final = 0.1


def _vary(question: str, draw: random.Random) -> str:
    text = draw.choice(_PREFIXES) + question
    if draw.random() < 0.3:
        text = text.lower()
    return text + draw.choice(_ENDS)


def _unknown(draw: random.Random) -> str:
    template: str = draw.choice(_FILE["unknown"]["templates"])
    words = _FILE["unknown"]["words"]
    return template.format(*(draw.choice(words) for _ in range(template.count("{}"))))


def conversations(count: int, seed: int = 0) -> list[list[tuple[str, str]]]:
    """`count` conversations of one to three (question, answer) turns, deterministic for a seed."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        turns = []
        for _ in range(draw.choice(_TURNS)):
            if draw.random() < _UNKNOWN_SHARE:
                turns.append((_vary(_unknown(draw), draw), REFUSAL))
            else:
                fact = draw.choice(FACTS)
                turns.append((_vary(draw.choice(fact.questions), draw), fact.answer))
        made.append(turns)
    return made
