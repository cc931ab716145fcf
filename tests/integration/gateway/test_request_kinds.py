"""Odd requests of every kind through every dialect: what they say arrives, or is refused by its
name, or is named in a header; nothing is dropped in silence, and nothing ends in a 500."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Final

import pytest

from aitorrentd.api import Chunk
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.nodes import NodeFactory

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
TEXT, OLLAMA, GENERATE, GAME = "/v1/completions", "/api/chat", "/api/generate", "/txt"
OF_TURNS: Final = (CHAT, RESPONSES, MESSAGES, OLLAMA)
OF_PROMPTS: Final = (TEXT, GENERATE, GAME)
ALL: Final = (*OF_TURNS, *OF_PROMPTS)
PNG: Final = "aGVsbG8="
DATA_URL: Final = f"data:image/png;base64,{PNG}"
END: Final = Chunk("", done=True, reason="stop", prompt_tokens=3, completion_tokens=2)
REFUSED: Final = (400, 422)


def body_of(path: str, content: Any, fields: Mapping[str, Any], beside: Mapping[str, Any]) -> Any:
    """A request with this content; `beside` stands in its message, `fields` in the body."""
    turns = [{"role": "user", "content": content, **beside}]
    question = {path: {"prompt": content} for path in OF_PROMPTS} | {RESPONSES: {"input": turns}}
    limit = {"max_tokens": 5} if path == MESSAGES else {}
    whole = {"stream": False, "model": "m"}
    return {**whole, **limit, **question.get(path, {"messages": turns}), **fields}


async def sent(address: str, path: str, body: Any) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Content-Type": "application/json"}
    return await exchange(address, request("POST", path, head, raw))


def said_by(answer: Answer) -> str:
    """The text of an error, in any dialect's shape."""
    found = json.loads(answer.body)
    error = found.get("error", found.get("detail"))
    if isinstance(error, list):
        return " ".join(f"{'.'.join(map(str, each['loc']))} {each['msg']}" for each in error)
    return str(error["message"] if isinstance(error, dict) else error)


@pytest.fixture
async def told(node_factory: NodeFactory) -> tuple[str, ScriptedBackend]:
    """The address of a node, and the backend that answers there."""
    backend = ScriptedBackend(Chunk("hello"), END)
    _, address = await gateway_node(node_factory, backend)
    return address, backend


def part(text: object, kind: object = "text") -> dict[str, Any]:
    return {"type": kind, "text": text}


def image(url: object, kind: str = "image_url") -> dict[str, Any]:
    return {"type": kind, "image_url": url if kind == "input_image" else {"url": url}}


OF_OPENAI: Final = (CHAT, RESPONSES, OLLAMA)
"Where parts are OpenAI's."
# content, in which dialects, the text that must arrive, how many images
ARRIVES: Final[tuple[tuple[Any, Iterable[str], str, int], ...]] = (
    ([part("one "), part("two")], OF_TURNS, "one two", 0),
    ([part("one "), part("two", "input_text")], OF_OPENAI, "one two", 0),
    (["one ", "two"], OF_OPENAI, "one two", 0),
    ([{"text": "one"}], OF_OPENAI, "one", 0),
    ([{**part("one"), "cache_control": {"type": "ephemeral"}}], OF_TURNS, "one", 0),
    ([part("a"), image(DATA_URL)], OF_OPENAI, "a", 1),
    ([part("a"), image(DATA_URL, "input_image")], OF_OPENAI, "a", 1),
    ([{"type": "refusal", "refusal": "no"}], OF_OPENAI, "no", 0),
    ("one", ALL, "one", 0),
    ("a\0b\u2028\U0001f600", ALL, "a\0b\u2028\U0001f600", 0),
)
# content, in which dialects, what the error must name
WRONG: Final[tuple[tuple[Any, Iterable[str], str], ...]] = (
    ([image("http://169.254.169.254/latest")], OF_OPENAI, "the server fetches no URLs"),
    ([image("http://localhost/a.png", "input_image")], OF_OPENAI, "the server fetches no URLs"),
    ([image("file:///etc/passwd")], OF_OPENAI, "the server fetches no URLs"),
    ([part(None)], OF_OPENAI, "a part of type text without a text"),
    ([part({"value": "hola"})], OF_OPENAI, "a part of type text without a text"),
    ([part(None)], [MESSAGES], "messages[0].content[0].text must be a string"),
    ([None], OF_OPENAI, "neither a text nor an object with a type"),
    ([1], OF_OPENAI, "neither a text nor an object with a type"),
    ([[part("a")]], OF_OPENAI, "neither a text nor an object with a type"),
    ([{"type": "input_audio"}], [CHAT, MESSAGES, OLLAMA], "input_audio"),
    ([{"type": "video_url", "video_url": {"url": DATA_URL}}], OF_TURNS, "video_url"),
    ([{"type": "tool_use", "id": "t", "name": "f"}], OF_TURNS, "tool_use"),
    (7, ALL, "tring"),  # "a string", or pydantic's "a valid string"
    (True, ALL, "tring"),
    ({"type": "text", "text": "a"}, ALL, "tring"),
    ("\ud800", ALL, "unicode|surrogate"),
    (None, [CHAT, RESPONSES, MESSAGES], "messages[0].content|input[0].content"),
    (["a", "b"], [GENERATE, GAME], "prompt"),
)
# fields of the body, where they are unknown
UNKNOWN: Final[tuple[tuple[dict[str, Any], Iterable[str]], ...]] = (
    ({"temprature": 0}, ALL),
    ({"num_ctx": 8192}, ALL),
    ({"format": "json"}, (CHAT, RESPONSES, MESSAGES, TEXT, GAME)),
    ({"constructor": {"prototype": 1}}, ALL),
    ({"chat_template_kwargs": {"enable_thinking": False}}, ALL),
)
NUMBERS: Final = ("temperature", "top_p", "top_k", "max_tokens", "seed", "min_p")
"Of which every dialect has some, in its body or its options."
ODD: Final[tuple[Any, ...]] = (True, False, "", "x", [], {}, [1], -(2**70), -1e300, 1e300)
# numbers and nesting that readers understand differently
HOSTILE: Final = (
    (b'"seed":1e400', "too large"),
    (b'"options":{"seed":1e999}', "too large"),
    (b'"options":{"num_predict":-1e400}', "too large"),
    (b'"tools":[{"x":1e400}]', "too large"),
    (b'"temperature":NaN', "NaN"),
    (b'"a":Infinity', "Infinity"),
    (b'"a":' + b"9" * 5000, "too long"),
    (b'"a":1,"a":2', "twice"),
    (b'"a":' + b"[" * 100 + b"]" * 100, "nests more than"),
    (b'"a":' + b'{"b":' * 99 + b"1" + b"}" * 99, "nests more than"),
    (b'"a":1,', "not valid JSON"),
    (b"'a':1", "not valid JSON"),
    (b'"a":"\xff"', "UTF-8"),
)


async def test_content_of_every_kind_arrives_whole(told: tuple[str, ScriptedBackend]) -> None:
    address, backend = told
    for content, paths, text, images in ARRIVES:
        for path in paths:
            answer = await sent(address, path, body_of(path, content, {}, {}))
            assert (path, content, answer.status) == (path, content, 200), answer.body
            asked = backend.requests[-1]
            turn = asked.messages[-1] if asked.messages else None
            assert (turn.content if turn else asked.prompt) == text, (path, content)
            assert len(turn.images if turn else ()) == images, (path, content)


async def test_content_that_says_nothing_is_refused(told: tuple[str, ScriptedBackend]) -> None:
    address, backend = told
    for content, paths, names in WRONG:
        for path in paths:
            answer = await sent(address, path, body_of(path, content, {}, {}))
            assert answer.status in REFUSED, (path, content, answer.body)
            error = said_by(answer)
            assert any(name in error for name in names.split("|")), (path, content, error)
    assert backend.requests == []


async def test_an_image_in_a_message_goes_on_or_is_refused(
    told: tuple[str, ScriptedBackend],
) -> None:
    address, backend = told
    for path in OF_TURNS:
        backend.requests.clear()
        answer = await sent(address, path, body_of(path, "what is it?", {}, {"images": [PNG]}))
        if path == MESSAGES:  # images are blocks there
            assert (answer.status, backend.requests) == (400, [])
            assert said_by(answer).startswith("messages[0].images must be blocks")
            continue
        assert answer.status == 200
        (turn,) = backend.requests[-1].messages or ()
        assert turn.images == (PNG,)
        away = {"images": ["http://localhost/cat.png"]}
        refused = await sent(address, path, body_of(path, "what is it?", {}, away))
        assert (refused.status, len(backend.requests)) == (400, 1)
        assert "the server fetches no URLs" in said_by(refused)


async def test_what_nobody_knows_is_named(told: tuple[str, ScriptedBackend]) -> None:
    address, backend = told
    for fields, paths in UNKNOWN:
        for path in paths:
            answer = await sent(address, path, body_of(path, "hi", fields, {}))
            assert (path, answer.status) == (path, 200)
            assert answer.headers["x-aitorrent-ignored"] == next(iter(fields)), path
    for path in OF_TURNS:
        answer = await sent(address, path, body_of(path, "hi", {}, {"frobnicate": 1, "a": None}))
        top = "input" if path == RESPONSES else "messages"
        assert answer.headers["x-aitorrent-ignored"] == f"{top}.frobnicate", path
    for path in (OLLAMA, GENERATE, GAME):
        options = {"options": {"temprature": 0, "seed": 3}}
        answer = await sent(address, path, body_of(path, "hi", options, {}))
        assert answer.headers["x-aitorrent-ignored"] == "options.temprature", path
        assert backend.requests[-1].params.seed == 3
    answer = await sent(address, GAME, body_of(GAME, "hi", {"options": {"seed": "x"}}, {}))
    assert (answer.status, "options.seed must be a number" in said_by(answer)) == (422, True)


async def test_odd_numbers_are_refused_by_name_or_mean_what_they_say(
    told: tuple[str, ScriptedBackend],
) -> None:
    """Never a 500, and never a truth value taken for a number."""
    address, backend = told
    for path, name, value in product(ALL, NUMBERS, ODD):
        own = {"max_tokens": "num_predict"}.get(name, name)
        fields = {name: value}
        if path in (OLLAMA, GENERATE, GAME):
            fields = {"options": {own: value}}
        elif path == RESPONSES and name == "max_tokens":
            fields = {"max_output_tokens": value}
        answer = await sent(address, path, body_of(path, "hi", fields, {}))
        at = (path, fields, answer.body)
        if answer.status == 200:
            asked = getattr(backend.requests[-1].params, name)
            named = name in answer.headers.get("x-aitorrent-ignored", "")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            assert is_number or (asked in (None, 5) and named), at
            continue
        assert answer.status in REFUSED, at
        assert any(each in said_by(answer) for each in (*fields, own, name)), at


async def test_nulls_count_as_absent_everywhere(told: tuple[str, ScriptedBackend]) -> None:
    address, _ = told
    names = "temperature top_p seed stop stop_sequences tools tool_choice n logprobs options format"
    names += " response_format text thinking reasoning think user metadata stream_options system"
    for path in ALL:
        nulls = dict.fromkeys(names.split())
        answer = await sent(address, path, body_of(path, "hi", nulls, {"name": None}))
        assert (path, answer.status) == (path, 200), answer.body
        assert "x-aitorrent-ignored" not in answer.headers


async def test_json_that_readers_understand_differently(
    told: tuple[str, ScriptedBackend],
) -> None:
    address, backend = told
    for path in (*ALL, "/v1/messages/count_tokens", "/v1/embeddings", "/api/embed", "/sessions"):
        for inside, names in HOSTILE:
            answer = await sent(address, path, b'{"model":"m",%b}' % inside)
            assert answer.status in REFUSED, (path, inside[:40], answer.status)
            assert names in said_by(answer), (path, inside[:40])
    assert backend.requests == []
