"""Log-probabilities of an answer's tokens, in the shape of OpenAI's `logprobs.content`. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_TOP: Final = 20
"The most alternatives that a request can ask for, as in OpenAI's API."
_MAX_TOKENS: Final = 4096
_MAX_CHARS: Final = 4096
_IMPOSSIBLE: Final = -9999.0
"OpenAI's number for a probability of 0, since JSON has no infinity."


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The natural logarithm of the probability that the model itself gave a token.

    It is that of the softmax of the unedited logits: before temperature, penalties, `logit_bias`,
    grammar, top_k, top_p and min_p.
    """

    token: str
    "The token's text; U+FFFD stands for bytes that are no character by themselves."
    logprob: float
    token_id: int | None = None
    raw: bytes | None = None
    "The token's bytes, where known."
    top: tuple[TokenLogprob, ...] = ()
    "The likeliest tokens at this place, best first, if requested."


def logprob_map(value: TokenLogprob) -> dict[str, Any]:
    """The value in OpenAI's shape, plus `id` where known."""
    found = _entry(value)
    found["top_logprobs"] = [_entry(each) for each in value.top]
    return found


def _entry(value: TokenLogprob) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "token": value.token,
        "logprob": max(value.logprob, _IMPOSSIBLE),
        "bytes": None if value.raw is None else list(value.raw),
    }
    return entry if value.token_id is None else {"id": value.token_id, **entry}


def read_logprobs(content: object) -> tuple[TokenLogprob, ...]:
    """The log-probabilities in a server's or a peer's list, or of a legacy completion's map; empty
    for null.

    Raises:
        ValueError: anything else, or out of range.
    """
    if content is None:
        return ()
    if isinstance(content, dict):
        content = content.get("content") if "content" in content else _legacy(content)
        content = [] if content is None else content
    if not isinstance(content, list) or len(content) > _MAX_TOKENS:
        raise ValueError("logprobs that are not a list of tokens")
    return tuple(_token(each, has_top=True) for each in content)


def missing_warning(server: str) -> str:
    """A warning for an answer whose requested log-probabilities did not come."""
    return f"{server} sent no logprobs; it does not support them, or its version is too old"


def _token(value: object, *, has_top: bool = False) -> TokenLogprob:
    if not isinstance(value, dict):
        raise ValueError("a logprob that is not an object")
    text, logprob, raw = value.get("token"), value.get("logprob"), value.get("bytes")
    ident, top = value.get("id"), value.get("top_logprobs") or []
    if not isinstance(text, str) or len(text) > _MAX_CHARS:
        raise ValueError("a logprob without its token")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or math.isnan(logprob):
        raise ValueError("a logprob that is not a number")
    if not isinstance(top, list) or len(top) > MAX_TOP + 1:
        raise ValueError(f"top_logprobs that are not a list of at most {MAX_TOP + 1}")
    return TokenLogprob(
        text.encode("utf-8", "replace").decode(),
        min(max(float(logprob), _IMPOSSIBLE), 0.0),
        ident if type(ident) is int and 0 <= ident < 2**32 else None,
        _bytes(raw),
        tuple(_token(each) for each in top) if has_top else (),
    )


def _bytes(value: object) -> bytes | None:
    if not isinstance(value, list) or len(value) > _MAX_CHARS:
        return None
    return bytes(value) if all(type(b) is int and 0 <= b < 256 for b in value) else None


def _legacy(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """OpenAI's shape for `/completions`: parallel lists."""
    tokens, logprobs, tops = (
        value.get(key) or [] for key in ("tokens", "token_logprobs", "top_logprobs")
    )
    if not all(isinstance(each, list) for each in (tokens, logprobs, tops)):
        raise ValueError("logprobs that are not lists")
    if len(tokens) != len(logprobs):
        raise ValueError("logprobs that do not match the tokens")
    rows = []
    for n, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        top = tops[n] if n < len(tops) and isinstance(tops[n], dict) else {}
        best = [{"token": t, "logprob": x} for t, x in top.items()]
        rows.append({"token": token, "logprob": logprob, "top_logprobs": best})
    return rows
