"""Answers of model servers as they occur: whatever happens, no false end and no text lost.

The corpus is in tests/cases/inference/streams, each body with what must become of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest

from aitorrentd.api import Backend
from tests.support.servers.canned import (
    Outcome,
    expected,
    ollama_backend,
    openai_backend,
    outcome,
    read,
)

pytestmark = pytest.mark.slow

Make = Callable[[Iterable[bytes], str], Backend]
SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"


def _cases() -> list[tuple[str, Make, bytes, str, dict[str, Any]]]:
    found: list[tuple[str, Make, bytes, str, dict[str, Any]]] = []
    for folder, make, kind in (
        ("streams/openai", openai_backend, SSE),
        ("streams/ollama", ollama_backend, NDJSON),
    ):
        for name, right in expected(folder).items():
            if right.get("request", "POST /api/chat") == "POST /api/chat" and "status" in right:
                kind_of = right.get("content_type", kind)
                found.append((name, make, read(folder, name), kind_of, right))
    return found


CORPUS: Final = _cases()
corpus = pytest.mark.parametrize(
    ("make", "body", "kind", "right"),
    [case[1:] for case in CORPUS],
    ids=[case[0] for case in CORPUS],
)


def check(got: Outcome, right: dict[str, Any]) -> None:
    if "error_says" in right:
        assert right["error_says"] in got.error
        assert not got.reason
        return
    assert (got.text, got.reason, got.error) == (right["text"], right["reason"], "")
    warns = right.get("warns", "")
    assert warns in got.warning
    assert bool(warns) == bool(got.warning)
    assert got.hidden == right.get("hidden", 0)
    if "prompt_tokens" in right:
        assert got.counts == (right["prompt_tokens"], right["completion_tokens"])


@corpus
async def test_case_has_its_right_outcome(
    make: Make, body: bytes, kind: str, right: dict[str, Any]
) -> None:
    check(await outcome(make([body], kind), right.get("model", "m")), right)


@corpus
async def test_outcome_is_the_same_wherever_the_bytes_are_cut(
    make: Make, body: bytes, kind: str, right: dict[str, Any]
) -> None:
    whole = await outcome(make([body], kind))
    for cut in range(1, len(body)):
        assert await outcome(make([body[:cut], body[cut:]], kind)) == whole, cut
    assert await outcome(make([body[i : i + 1] for i in range(len(body))], kind)) == whole


@corpus
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
async def test_outcome_is_the_same_with_other_ends_of_lines(
    make: Make, body: bytes, kind: str, right: dict[str, Any], end: bytes
) -> None:
    if kind == SSE or end == b"\r\n":  # JSON lines have a line feed
        backend = make([body.replace(b"\n", end)], kind)
        check(await outcome(backend, right.get("model", "m")), right)


@corpus
async def test_truncated_answer_never_ends_with_less_text(
    make: Make, body: bytes, kind: str, right: dict[str, Any]
) -> None:
    if "cut" in right:  # the case says why a part of it looks whole
        return
    for size in range(len(body)):
        got = await outcome(make([body[:size]], kind))
        assert got.error or got.text == right.get("text"), size


def event(value: object, kind: str = "") -> bytes:
    head = f"event: {kind}\n".encode() if kind else b""
    return head + b"data: " + json.dumps(value).encode() + b"\n\n"


def said(text: str | None, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return event({"object": "chat.completion.chunk", "choices": [choice], **more})


DONE: Final = b"data: [DONE]\n\n"

# Each ends an answer that has begun, and one that has not; the text must be told.
ERRORS: Final = {
    "llama.cpp field": b'error: {"code":400,"message":"BROKEN"}\n\n',
    "data error": event({"error": {"message": "BROKEN", "code": 500}}),
    "data error text": event({"error": "BROKEN"}),
    "error flag": event({"error": True, "message": "BROKEN"}),
    "event error": event({"message": "BROKEN"}, "error"),
    "guardrails": event({"code": 422, "details": "BROKEN"}, "error"),
    "event error text": b"event: error\ndata: BROKEN\n\n",
    "text": b"data: BROKEN\n\n",
    "json text": event("BROKEN"),
    "vllm": event({"object": "error", "message": "BROKEN", "code": 400}),
    "fastchat": event({"text": "BROKEN", "error_code": 50002}),
    "error_msg": event({"error_code": 17, "error_msg": "BROKEN"}),
    "anthropic": event({"type": "error", "error": {"type": "overloaded", "message": "BROKEN"}}),
    "fastapi": event({"detail": "BROKEN"}),
    "fastapi list": event({"detail": [{"loc": ["body", "n"], "msg": "BROKEN"}]}),
    "dashscope": event({"code": "InvalidParameter", "message": "BROKEN", "request_id": "1"}),
    "minimax": event({"base_resp": {"status_code": 1004, "status_msg": "BROKEN"}}),
    "gemini": event([{"error": {"code": 503, "message": "BROKEN", "status": "UNAVAILABLE"}}]),
    "cloudflare": event({"success": False, "errors": [{"code": 7, "message": "BROKEN"}]}),
    "beside empty choices": event({"choices": [], "error": {"message": "BROKEN"}}),
    "openrouter choice": event(
        {"choices": [{"delta": {"content": ""}, "error": {"code": 502, "message": "BROKEN"}}]}
    ),
    "beside a reason": event(
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "error": {"message": "BROKEN"}}
    ),
    "bare line": b'{"error":{"message":"BROKEN"}}\n\n',
    "unknown reason": said(None, "BROKEN"),
    "content filter": said(None, "BROKEN_filter"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("before", [b"", said("Hel") + said("lo")], ids=["first", "later"])
async def test_error_in_any_shape_ends_the_answer(error: bytes, before: bytes) -> None:
    got = await outcome(openai_backend([before + error + said(None, "stop") + DONE], SSE))
    assert "BROKEN" in got.error
    assert got.text == ("Hello" if before else "")


# A bare text has not the shape of an error: the answer is whole.
SHAPED: Final = {name: error for name, error in ERRORS.items() if not name.endswith("text")}


@pytest.mark.parametrize("error", SHAPED.values(), ids=SHAPED)
async def test_error_after_the_reason_is_told_too(error: bytes) -> None:
    got = await outcome(openai_backend([said("Hello", "stop") + error + DONE], SSE))
    assert "BROKEN" in got.error


BODIES: Final = {
    "web page": (b"<!DOCTYPE html><html><title>Sign in</title></html>", "text/html", "Sign in"),
    "web page as a stream": (b"\n <html>busy</html>", SSE, "busy"),
    "text": (b"upstream connect error", "text/plain", "upstream connect error"),
    "nothing": (b"", SSE, "before its answer was complete"),
    "only done": (DONE, SSE, "before its answer was complete"),
    "only counts": (
        event({"usage": {"prompt_tokens": 1}}) + DONE,
        SSE,
        "before its answer was complete",
    ),
    "only comments": (b": wait\n\n: wait\n\n" + DONE, SSE, "before its answer was complete"),
    "more after a reason, then nothing": (
        said("Hel", "stop") + said("lo"),
        SSE,
        "before its answer was complete",
    ),
    "foreign tokens": (
        event({"token": {"text": "Hello"}}) + DONE,
        SSE,
        "before its answer was complete",
    ),
    "json error": (b'{"error":"no credits"}', "application/json", "no credits"),
    "json error over lines": (
        b'{\n "error": {\n  "message": "no credits"\n }\n}\n',
        SSE,
        "credits",
    ),
    "json list": (b'[{"error":{"message":"no credits"}}]', "application/json", "no credits"),
    "json null": (b"null", "application/json", "before its answer was complete"),
    "json that is cut": (b'{"choices":[{"message":{"content":"Hel', "application/json", "JSON"),
    "torn line": (
        b'data: {"choices":[{"delta":{"con\ntent":"x"}}]}\n\n' + DONE,
        SSE,
        "openai:case",
    ),
    "unknown field": (b'dbta: {"choices":[]}\n\n' + said("lo", "stop"), SSE, "not an event field"),
    "not UTF-8": (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n' + DONE, SSE, "JSON"),
    "no delta": (
        event({"choices": [{"delta": ["Hello"], "finish_reason": "stop"}]}),
        SSE,
        "a delta",
    ),
    "no text": (event({"choices": [{"delta": {"content": {"type": "audio"}}}]}), SSE, "'audio'"),
}


@pytest.mark.parametrize(("body", "kind", "says"), BODIES.values(), ids=BODIES)
async def test_body_that_is_no_answer_is_an_error(body: bytes, kind: str, says: str) -> None:
    got = await outcome(openai_backend([body], kind))
    assert says in got.error
    assert not got.reason


def whole(**choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello"}
    return {"object": "chat.completion", "choices": [{"message": message, **choice}]}


STOP: Final = said(None, "stop") + DONE
HELLO: Final = {
    "one document": json.dumps(whole(finish_reason="stop")).encode(),
    "document over lines": json.dumps(whole(finish_reason="stop"), indent=1).encode(),
    "document and done": json.dumps(whole(finish_reason="stop")).encode() + b"\n\n" + DONE,
    "document in an event": event(whole(finish_reason="stop")) + DONE,
    "lines of JSON": b"".join(
        part.removeprefix(b"data: ").strip() + b"\n" for part in (said("Hel"), said("lo", "stop"))
    ),
    "no blank lines": (said("Hel") + said("lo", "stop") + DONE).replace(b"\n\n", b"\n"),
    "framed twice": (said("Hel") + said("lo", "stop")).replace(b"data: ", b"data: data: "),
    "no space": (said("Hel") + said("lo", "stop") + DONE).replace(b"data: ", b"data:"),
    "fields": b"retry: 5\nid: 1\nevent: message\n" + said("Hel") + b": x\n\n" + said("lo") + STOP,
    "ping": event({"type": "ping"}, "ping") + said("Hello") + STOP,
    "null error": said("Hel", error=None) + said("lo", error="", error_code=0) + STOP,
    "null delta": event({"choices": [{"delta": None}]}) + said("Hello") + STOP,
    "azure": event({"choices": [], "prompt_filter_results": []}) + said("Hello") + STOP,
    "parts": event({"choices": [{"delta": {"content": [{"type": "text", "text": "Hello"}]}}]})
    + STOP,
    "strings as parts": event({"choices": [{"delta": {"content": ["Hel", "lo"]}}]}) + STOP,
    "message in pieces": event({"choices": [{"message": {"content": "Hello"}}]}) + STOP,
    "repeated at the end": said("Hel") + said("lo") + event(whole(finish_reason="stop")) + DONE,
    "refusal": event({"choices": [{"delta": {"content": None, "refusal": "Hello"}}]}) + STOP,
    "other choices": said("Hello").replace(b'"index": 0', b'"index": 1') + said("Hello") + STOP,
    "done and no reason": said("Hello") + DONE,
    "reason and no done": said("Hello", "stop"),
    "counts that are cut": said("Hello", "stop") + b'data: {"choices":[],"usa',
    "joined streams": said("Hel") + b"\xef\xbb\xbf" + said("lo", "stop"),
    "upper case field": (said("Hello", "stop")).replace(b"data:", b"Data:"),
    "completions": event({"choices": [{"text": "Hello", "finish_reason": "stop"}]}),
    "type of a web page": said("Hello", "stop") + DONE,
}


@pytest.mark.parametrize(("name", "body"), HELLO.items(), ids=HELLO)
async def test_answer_in_any_dialect_is_whole(name: str, body: bytes) -> None:
    kind = "text/html" if name == "type of a web page" else SSE
    for parts in ([body], [body[i : i + 1] for i in range(len(body))]):
        got = await outcome(openai_backend(parts, kind))
        assert (got.text, got.reason, got.error) == ("Hello", "stop", "")


@pytest.mark.parametrize(
    ("delta", "thinking"),
    [
        ({"reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm"}, "hm"),
        ({"reasoning": "hm", "reasoning_content": "hm", "content": None}, "hm"),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "hm"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "hm"),
    ],
)
async def test_thinking_is_told_apart(delta: dict[str, Any], thinking: str) -> None:
    body = event({"choices": [{"delta": delta}]}) + said("Hello") + STOP
    got = await outcome(openai_backend([body], SSE))
    assert (got.text, got.thinking, got.reason) == ("Hello", thinking, "stop")


async def test_character_cut_into_two_events_is_whole() -> None:
    halves = [said("\ud83d"), said("\ude00"), said("\ud83d"), said("x", "stop")]
    got = await outcome(openai_backend(halves, SSE))
    assert got.text == "😀\N{REPLACEMENT CHARACTER}x"
    halves = [said("\ud83d", "stop")]
    assert (await outcome(openai_backend(halves, SSE))).text == "\N{REPLACEMENT CHARACTER}"


OLLAMA_ERRORS: Final = {
    "text": b'{"error":"BROKEN"}\n',
    "beside an answer": b'{"message":{"content":""},"done":true,"error":"BROKEN"}\n',
    "object": b'{"error":{"message":"BROKEN"}}',
    "over lines": b'{\n "error": "BROKEN"\n}\n',
    "web page": b"<html>BROKEN</html>",
    "plain text": b"BROKEN\n",
    "other reason": b'{"message":{"content":""},"done":true,"done_reason":"BROKEN"}\n',
    "proxy": b'{"detail":"BROKEN"}\n',
    "list": b'[{"error":"BROKEN"}]\n',
}


@pytest.mark.parametrize("error", OLLAMA_ERRORS.values(), ids=OLLAMA_ERRORS)
async def test_error_of_ollama_in_any_shape_ends_the_answer(error: bytes) -> None:
    for before in (b"", b'{"message":{"content":"Hel"},"done":false}\n'):
        got = await outcome(ollama_backend([before + error], NDJSON))
        assert "BROKEN" in got.error
        assert got.text == ("Hel" if before else "")


@pytest.mark.parametrize(
    "body",
    [
        b'{"message":{"content":"Hello"},"done":true,"done_reason":"stop"}',
        b'{\n "message": {\n  "content": "Hello"\n },\n "done": true\n}\n',
        b'\xef\xbb\xbf{"message":{"content":"Hello"},"done":true}\n',
        b'{"message":{"content":"Hello"},"done":false,"done_reason":"stop"}\n',
        b'{"message":{"content":[{"type":"text","text":"Hello"}]},"done":true}\n',
        b'\n\r\n{"message":null,"response":"Hello","done":true}\r\n\n',
        b'{"message":{"content":"Hello"},"done":true,"done_reason":"END_TURN"}',
    ],
)
async def test_answer_of_ollama_in_any_dialect_is_whole(body: bytes) -> None:
    for parts in ([body], [body[i : i + 1] for i in range(len(body))]):
        got = await outcome(ollama_backend(parts, "application/json"))
        assert (got.text, got.reason, got.error) == ("Hello", "stop", "")


def mutated(body: bytes, draw: random.Random) -> bytes:
    """`body` with damage that a network, a proxy or a server does."""
    lines = body.splitlines(keepends=True)
    at = draw.randrange(len(lines) + 1)
    match draw.randrange(6):
        case 0:  # cut
            return body[: draw.randrange(len(body))]
        case 1:  # an error put in
            return b"".join([*lines[:at], *draw.choice([*ERRORS.values()]).splitlines(True), b""])
        case 2:  # a line torn
            place = draw.randrange(len(body))
            return body[:place] + b"\n" + body[place:]
        case 3:  # bytes that are no UTF-8
            place = draw.randrange(len(body))
            return body[:place] + b"\xff\xfe" + body[place:]
        case 4:  # a page of a proxy
            return b"".join(lines[:at]) + b"<html>502 Bad Gateway</html>"
        case _:  # an event in the middle of which it ends
            return b"".join(lines[:at]) + b'data: {"choices":[{"del'


@pytest.mark.parametrize("seed", range(200))
async def test_mutated_stream_ends_in_an_error_or_in_the_right_text(seed: int) -> None:
    draw = random.Random(seed)
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    pieces = [said("Hel"), said("lo", "stop"), event({"choices": [], "usage": usage}), DONE]
    if draw.random() < 0.5:
        body = mutated(b"".join(pieces), draw)
        got = await outcome(openai_backend([body], SSE))
    else:
        lines = [
            b'{"message":{"content":"Hel"},"done":false}\n',
            b'{"message":{"content":"lo"},"done":false}\n',
            b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n',
        ]
        body = mutated(b"".join(lines), draw)
        got = await outcome(ollama_backend([body], NDJSON))
    assert got.error or (got.text, got.reason) == ("Hello", "stop"), body
