"""What errors say about a model that cannot answer now. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from aitorrentd.api import PendingModel

RETRY_S: Final = 5
"When to ask again for a model that is being loaded."
_NAMES_SHOWN: Final = 12


def facts(pending: Sequence[PendingModel]) -> dict[str, Any]:
    """Data of an error about these models: the layers that nobody holds, and when to ask again if
    they are only being loaded, which is all that they lack."""
    found: dict[str, Any] = {}
    if missing := [list(gap) for each in pending for gap in each.missing]:
        found["layers"] = missing
    if all(e.state == "loading" and not (e.is_fetching or e.shortage) for e in pending):
        found["retry_after_s"] = RETRY_S
    return found


def listed(names: Iterable[str], title: str = "available models") -> str:
    """Names for the end of a message; an empty string if there are none."""
    known = sorted(names)
    if not known:
        return ""
    shown = ", ".join(known[:_NAMES_SHOWN]) + (", …" if len(known) > _NAMES_SHOWN else "")
    return f"; {title}: {shown}"
