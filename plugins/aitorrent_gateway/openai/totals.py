"""What the last chunks of an answer's choices say together. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aitorrentd.api import Chunk


def usage_of(lasts: Sequence[Chunk]) -> dict[str, Any]:
    """The usage of choices that ended with these chunks: the prompt counts once."""
    prompt = max(last.prompt_tokens for last in lasts)
    new = sum(last.completion_tokens for last in lasts)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
    }
    hidden = reasoning_tokens(lasts)
    if hidden is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": hidden}
    return usage


def reasoning_tokens(lasts: Sequence[Chunk]) -> int | None:
    """Tokens of thinking; None where no server counts them."""
    counts = [last.extra.get("reasoning_tokens") for last in lasts]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None


def node_part(last: Chunk) -> dict[str, Any]:
    """What only this server says; clients keep keys that they do not know. It names no peer."""
    part: dict[str, Any] = {"stages": [[stage.start, stage.end] for stage in last.stages]}
    if last.warning:
        part["warning"] = last.warning
    return part
