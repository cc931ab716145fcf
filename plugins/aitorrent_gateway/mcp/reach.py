"""What the sender of a message may reach, and how it hears of progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aitorrent_gateway.mcp.strangers import MARK, MOST_BYTES, cleaned
from aitorrentd.api import TooLarge
from aitorrentd.api.context import Caller

Report = Callable[[float | None, float | None, str], None]
"Takes how much is done, of how much (None = unknown), and a text."


@dataclass(frozen=True, slots=True)
class Reach:
    """The sender's rights."""

    caller: Caller | None
    "Calls control methods in its role; None if it may not look at the node."
    asker: Caller | None
    "Has models answer; None if it may not."
    is_known: bool = True
    "False for a program without a token."
    who: str = "somebody"
    "For the log."


def of_strangers(result: Any) -> tuple[dict[str, Any], str]:
    """A result as an object that says that strangers may have written in it, and the same as JSON.

    Raises:
        TooLarge: even though each of its texts and lists is capped.
    """
    whole = {"untrusted": True, "result": cleaned(result)}
    text = json.dumps(whole, ensure_ascii=False)
    if len(text) > MOST_BYTES:
        raise TooLarge(f"the result has {len(text)} characters; ask for less of it")
    return whole, text


def content(
    text: str, structured: Mapping[str, Any] | None = None, *, failed: bool = False
) -> dict[str, Any]:
    """The result of a tool."""
    found: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": failed}
    if structured is not None:
        found["structuredContent"] = structured
    return {**found, "_meta": {MARK: True}}
