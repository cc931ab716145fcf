"""What the last chunks of an answer's choices say together. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from aitorrentd.api import Chunk


def usage_of(lasts: Sequence[Chunk], each: int) -> dict[str, Any]:
    """The usage of choices that ended with these chunks: a prompt, which has `each` of them in
    sequence, counts once."""
    ends = [lasts[n : n + each] for n in range(0, len(lasts), each)]
    prompt = sum(max(last.prompt_tokens for last in of_one) for of_one in ends)
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


def _speeds(last: Chunk) -> dict[str, float]:
    """Where the time of an answer went, as far as it is known: milliseconds, and tokens per second
    of the prompt and of the answer after its first token."""
    extra = last.extra
    first_s = _number(extra.get("first_token_s"))
    new = last.prompt_tokens - int(_number(extra.get("cached_tokens")) or 0)
    load_s = (_number(extra.get("load_duration")) or 0.0) / 1e9
    read_s = None if first_s is None else first_s - load_s
    rate, rest_s = _number(extra.get("tokens_per_s")), _number(extra.get("rest_s"))
    if rate is None and rest_s and last.completion_tokens > 1:
        rate = (last.completion_tokens - 1) / rest_s
    found = {
        "hop_ms": _scaled(extra.get("hop_us"), 1e-3),
        "queue_ms": _scaled(extra.get("queue_s"), 1e3),
        "first_token_ms": _scaled(first_s, 1e3),
        "prefill_tok_s": new / read_s if read_s and read_s > 0 and new > 0 else None,
        "decode_tok_s": rate or None,
    }
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def _scaled(value: Any, factor: float) -> float | None:
    number = _number(value)
    return None if number is None else number * factor


def _number(value: Any) -> float | None:
    """A figure of a backend, which may be another plugin's."""
    is_one = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_one else None


def node_part(last: Chunk) -> dict[str, Any]:
    """What only this server says; clients keep keys that they do not know. It names no peer."""
    part: dict[str, Any] = {"stages": [[stage.start, stage.end] for stage in last.stages]}
    if last.stages:
        part["hops"] = len(last.stages) + 1  # the last one returns to the node that answers
    part |= _speeds(last)
    if last.warning:
        part["warning"] = last.warning
    return part
