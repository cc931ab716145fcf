"""What model servers say: errors, finish reasons, parts of text, documents in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrentd.api.relays.documents import JsonDocuments, Lines
from aitorrentd.api.relays.reported_errors import (
    MAX_ERROR_CHARS,
    error_in_body,
    reported_error,
)
from aitorrentd.api.relays.texts import ENDS, TextJoiner, end_of, text_in
from tests.support.effort import examples
from tests.support.nodes import REPOSITORY
from tests.support.servers.relays import json_values


@pytest.mark.parametrize(
    ("value", "message", "code", "status"),
    [
        ({"error": {"message": "no", "code": 429, "type": "x"}}, "no", "429", 429),
        ({"error": "no", "status": 404}, "no", "", 404),
        ({"error": {"message": {"text": "no"}}}, "no", "", None),
        ({"error": True, "message": "no", "code": "quota"}, "no", "quota", None),
        ({"object": "error", "message": "no", "code": 400}, "no", "400", 400),
        ({"error": {"odd": [1]}}, '{"odd": [1]}', "", None),
        ([{"error": {"message": "no", "code": 503}}], "no", "503", 503),
        ({"detail": [{"loc": ["body", "n"], "msg": "no"}]}, "body.n: no", "", None),
        ("no", "no", "", None),
    ],
)
def test_error_is_read_in_any_shape(
    value: Any, message: str, code: str, status: int | None
) -> None:
    error = reported_error(value)
    assert error is not None
    assert (error.message, error.code, error.status) == (message, code, status)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        {"error": None, "choices": [{"delta": {"content": "x"}}]},
        {"error": "", "error_code": 0, "response": "x"},
        {"error": {}, "errors": [], "success": True},
        {"message": {"role": "assistant", "content": "x"}, "done": False},
        {"choices": [], "usage": {"prompt_tokens": 1}},
        {"base_resp": {"status_code": 0, "status_msg": ""}, "choices": []},
        {"choices": [{"message": {"content": "error"}}], "detail": "x"},
        {"type": "ping"},
    ],
)
def test_what_is_no_error_is_none(value: Any) -> None:
    assert reported_error(value) is None


@settings(max_examples=examples(300))
@given(
    st.dictionaries(
        st.sampled_from(["error", "message", "detail", "choices", "object", "error_code", "code"]),
        json_values | st.just("error"),
    )
)
def test_any_value_has_a_short_text_or_none(value: dict[str, Any]) -> None:
    error = reported_error(value)
    if error is not None:
        assert len(error.message) <= MAX_ERROR_CHARS
        assert error.status is None or 400 <= error.status < 600
    assert isinstance(error_in_body(json.dumps(value).encode()).message, str)


def test_deep_and_long_errors_are_cut() -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = {"message": deep}
    error = reported_error({"error": deep})
    assert error is not None
    assert len(error.message) <= MAX_ERROR_CHARS
    assert len(error_in_body(b"x" * 5000).message) == MAX_ERROR_CHARS


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("FINISH_REASON_MAX_TOKENS", "length"),
        ("max-tokens", "length"),
        ("<|endoftext|>", "stop"),
        ("content_filter", None),
        ("tool_calls", None),
        ("error", None),
        ("", None),
    ],
)
def test_finish_reason_is_in_the_table_or_unknown(reason: str, end: str | None) -> None:
    assert end_of(reason) == end


def test_every_reason_of_the_table_is_found() -> None:
    assert {reason: end_of(reason.upper()) for reason in ENDS} == dict(ENDS)


def test_every_reason_of_the_table_is_documented() -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    for ours in ("stop", "length"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{ours}` | "))
        theirs = {reason for reason, end in ENDS.items() if end == ours}
        assert set(row.split("|")[2].replace("`", "").replace(" ", "").split(",")) == theirs


@settings(max_examples=examples(200))
@given(st.text(max_size=20), st.lists(st.integers(0, 40), max_size=6))
def test_text_cut_between_halves_of_characters_is_whole(text: str, cuts: list[int]) -> None:
    halves = text.encode("utf-16-le", "surrogatepass")
    units = [
        halves[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(halves), 2)
    ]
    joiner, got, start = TextJoiner(), "", 0
    for cut in [*sorted(cuts), len(units)]:
        got += joiner.add("".join(units[start:cut]))
        start = max(start, cut)
    assert got + joiner.rest() == text


@settings(max_examples=examples(200))
@given(json_values | st.lists(st.dictionaries(st.sampled_from(["type", "text"]), json_values)))
def test_any_content_is_text_or_refused(content: Any) -> None:
    try:
        text, thinking = text_in(content)
    except ValueError:
        return
    assert isinstance(text + thinking, str)


@settings(max_examples=examples(150))
@given(st.lists(json_values.map(lambda v: {"v": v}), max_size=4), st.booleans(), st.data())
def test_documents_are_the_same_however_they_are_cut(
    values: list[Any], indented: bool, data: st.DataObject
) -> None:
    body = "\n".join(json.dumps(v, indent=1 if indented else None) for v in values).encode()
    lines, documents, found = Lines(), JsonDocuments(), []
    while body:
        size = data.draw(st.integers(1, len(body)))
        found += [documents.add(line) for line in lines.feed(body[:size])]
        body = body[size:]
    found += [documents.add(lines.end()), documents.end()]
    told = [json.loads(document) for document in found if document]
    assert json.dumps(told) == json.dumps(values)
