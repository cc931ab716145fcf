"""Errors that model servers report in their answers, in the dialects found in use. No I/O.

Servers agree on the shape of a token and on little else. Whatever the dialect, an incomplete answer
must never look complete.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_ERROR_CHARS: Final = 1024
"Longest text that is kept of a server's error, in characters."
_MAX_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class ReportedError:
    """An error that a server put into an answer."""

    message: str
    code: str = ""
    param: str = ""
    status: int | None = None
    "The HTTP status that the error stands for, if it gives one."


# In order of preference for the text.
_TEXTS: Final = (
    "message",
    "msg",
    "error_msg",
    "error_message",
    "errmsg",
    "status_msg",
    "detail",
    "details",
    "description",
    "reason",
    "text",
    "title",
    "error",
    "errors",
)
# These explain an event that has neither choices nor counts.
_REASONS: Final = frozenset(_TEXTS) - {"text", "title"}
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_MARKUP: Final = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_PAGE_CHARS: Final = 8192
_SHOWN_CHARS: Final = 200
_NOTHING: Final = (None, "", False, 0, "0")


def reported_error(value: object) -> ReportedError | None:
    """The error in a piece of an answer (a JSON value), or None.

    Recognises `error` with any value, also beside or inside a choice, `"object": "error"`, `"type":
    "error"`, `error_code` (0 = no error), `errors`, `"success": false`, `base_resp`, a list that
    contains one of these, bare text, and an explanation instead of an answer.
    """
    if isinstance(value, str):
        return ReportedError(value[:MAX_ERROR_CHARS]) if value.strip() else None
    if isinstance(value, list):
        return next((e for item in value if (e := _in_map(item)) is not None), None)
    return _in_map(value)


def _in_map(value: object) -> ReportedError | None:
    if not isinstance(value, dict):
        return None
    for key in ("error", "errors"):
        if _is_something(value.get(key)):
            return described(value[key], beside=value)
    if _is_something(value.get("error_code")):
        return described(value)
    base = value.get("base_resp")
    if isinstance(base, dict) and _is_something(base.get("status_code")):
        return described(base)
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        return _in_choices(choices)
    marks = (value.get("object"), value.get("type"), value.get("status"), value.get("event"))
    if "error" in marks or value.get("success") is False:
        return described(value)
    is_answer = any(key in value for key in ("choices", "usage", "done", "response", "data"))
    if not is_answer and any(
        isinstance(value.get(key), str | list) and value[key] for key in _REASONS
    ):
        return described(value)
    return None


def _in_choices(choices: list[Any]) -> ReportedError | None:
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        for part in (choice, choice.get("delta"), choice.get("message")):
            if isinstance(part, dict) and _is_something(part.get("error")):
                return described(part["error"])
    return None


def _is_something(value: object) -> bool:
    return value not in (*_NOTHING, {}, [])


def described(error: object, *, beside: Mapping[str, Any] | None = None) -> ReportedError:
    """The text, code, parameter and status of an error object.

    `beside` is the map that contains the error; it may hold the missing parts.
    """
    if not isinstance(error, dict):
        text = _text(error)
        others = beside or {}
        if error is True or not text:  # {"error": true, "message": "…"}
            rest = {key: item for key, item in others.items() if key not in ("error", "errors")}
            text = _text_of(rest) or text or _shown(error)
        return ReportedError(text[:MAX_ERROR_CHARS], *_facts(others))
    text = _with_cause(_text_of(error) or _shown(error), error)
    code, param, status = _facts(error)
    if beside and not code:
        code, _, status = _facts(beside)
    return ReportedError(text[:MAX_ERROR_CHARS], code, param, status)


def _with_cause(text: str, error: Mapping[str, Any]) -> str:
    """OpenRouter says "Provider returned error", and in `metadata.raw` what the provider said."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    cause = error_in_body(raw.encode()).message if isinstance(raw, str) else _text(raw)
    return f"{text}: {cause}" if cause and cause not in text else text


def _text_of(error: Mapping[str, Any], depth: int = 0) -> str:
    return next((text for key in _TEXTS if (text := _text(error.get(key), depth))), "")


def _text(value: object, depth: int = 0) -> str:
    if isinstance(value, str):
        return value.strip()
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, dict):
        return _text_of(value, depth + 1)
    if isinstance(value, list):
        # FastAPI lists the faults of a request body: [{"loc": ["body", "n"], "msg": "…"}].
        return "; ".join(text for item in value[:8] if (text := _with_place(item, depth + 1)))
    return ""


def _with_place(item: object, depth: int) -> str:
    text = _text(item, depth)
    place = item.get("loc") if isinstance(item, dict) else None
    if not text or not isinstance(place, list):
        return text
    return f"{'.'.join(str(part) for part in place)}: {text}"


def _shown(value: object) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "an error"


def _facts(error: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """(code, param, status)."""
    code = next((error[k] for k in ("code", "type", "error_code") if _is_fact(error.get(k))), "")
    status = None
    for key in ("status", "status_code", "code", "statusCode", "http_code"):
        number = error.get(key)
        if isinstance(number, str) and number.isascii() and number.isdecimal():
            number = int(number[:9])
        if isinstance(number, int) and 400 <= number < 600:
            status = number
            break
    param = error.get("param")
    return str(code)[:64], str(param)[:64] if _is_fact(param) else "", status


def _is_fact(value: object) -> bool:
    return isinstance(value, str | int) and value not in _NOTHING


def error_in_body(body: bytes) -> ReportedError:
    """The error in the body of a refusal: JSON, an event stream, a web page or a text."""
    text = body.decode("utf-8-sig", "replace").strip()
    for content in (text, _first_event(text)):
        try:
            return _in_value(json.loads(content))
        except (ValueError, RecursionError):
            pass
    shown = _page_text(text[:_PAGE_CHARS]) if text.startswith("<") else _first_event(text) or text
    return ReportedError(shown[:MAX_ERROR_CHARS])


def _in_value(value: object) -> ReportedError:
    found = reported_error(value)
    if found is not None:
        return found
    # Only an object or a list carries an error; `null` and `{}` do not.
    return described(value) if isinstance(value, dict | list) and value else ReportedError("")


def _first_event(stream: str) -> str:
    """The content of the first event, if the text is an event stream."""
    for line in stream.splitlines():
        name, colon, value = line.partition(":")
        if name in ("data", "error") and value.strip():
            return value.strip()
        if line and not (colon and name in ("", "event", "id", "retry", "data")):
            break
    return ""


def _page_text(page: str) -> str:
    """The title of a web page, else its first words; of XML, the contents."""
    title = _TITLE.search(page)
    text = html.unescape(title[1] if title else _MARKUP.sub(" ", page))
    return " ".join(text.split())[:_SHOWN_CHARS] or page[:_SHOWN_CHARS]
