"""What a node really answers on each path of the gateway is what its OpenAPI document says: no key
is missing, and none is new."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from aitorrentd.api import Chunk, GenerateRequest
from aitorrentd.api.models.call_parts import CallPart
from aitorrentd.api.models.tools import ToolCall
from tests.integration.gateway.games.test_images import drawing_node
from tests.integration.gateway.test_openai_js import END, Everything
from tests.support.clients.raw_http import exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token
from tests.support.nodes import NodeFactory
from tests.support.servers.image_servers import FakeOpenAiImages

Json = dict[str, Any]
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "weather", "parameters": {"type": "object"}}
CHAT: Json = {"model": "m", "messages": HELLO}
OFFERED: Json = {"tools": [{"type": "function", "function": TOOL}]}
MESSAGE: Json = {**CHAT, "max_tokens": 9}
USED: Json = {"tools": [{"name": "weather", "input_schema": {"type": "object"}}]}
RESPONSE: Json = {"model": "m", "input": "hello"}
CUSTOM: Json = {"tools": [{"type": "custom", "name": "weather"}]}
WORK: Json = {"tools": [{"type": "function", **TOOL}]}
PROMPT: Json = {"model": "m", "prompt": "hello"}
STREAM: Json = {"stream": True}
WHOLE: Json = {"stream": False}
CALLED: Json = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def said(word: str) -> list[Json]:
    return [{"role": "user", "content": word}]


ASKED: dict[tuple[str, str], list[Json | None]] = {
    ("POST", "/v1/chat/completions"): [
        CHAT,
        {**CHAT, "logprobs": True, "top_logprobs": 1, "n": 2},
        {**CHAT, **OFFERED},
        {**CHAT, **STREAM, "stream_options": {"include_usage": True}},
        {**CHAT, **STREAM, **OFFERED},
        {**CHAT, **STREAM, "logprobs": True, "top_logprobs": 1},
        {**CHAT, **STREAM, "messages": said("late")},
        {**CHAT, "messages": said("long")},
        {**CHAT, "messages": said("cut"), **OFFERED},
    ],
    ("POST", "/v1/completions"): [
        PROMPT,
        {**PROMPT, **STREAM},
        {**PROMPT, "logprobs": 1},
        {**PROMPT, "logprobs": 1, **STREAM},
        {**PROMPT, "prompt": ["hello", "again"], **STREAM},
        {**PROMPT, "echo": True},
    ],
    ("POST", "/v1/responses"): [
        RESPONSE,
        {**RESPONSE, **WORK},
        {**RESPONSE, **STREAM},
        {**RESPONSE, **STREAM, **WORK},
        {**RESPONSE, **STREAM, **CUSTOM},
        {**RESPONSE, **STREAM, "include": ["message.output_text.logprobs"], "top_logprobs": 1},
        {**RESPONSE, **STREAM, "input": "late"},
        {**RESPONSE, **STREAM, **WORK, "input": "cut"},
        {**RESPONSE, "input": "long"},
    ],
    ("POST", "/v1/responses/input_tokens"): [RESPONSE],
    ("POST", "/v1/embeddings"): [
        {"model": "e", "input": ["a"]},
        {"model": "e", "input": "a", "encoding_format": "base64"},
        {"model": "e", "input": [[1]]},
    ],
    ("POST", "/v1/images/generations"): [{"prompt": "a"}, {"prompt": ""}],
    ("GET", "/v1/models"): [None],
    ("GET", "/v1/models/{model}"): [None],
    ("POST", "/v1/messages"): [
        MESSAGE,
        {**MESSAGE, **USED},
        {**MESSAGE, **STREAM},
        {**MESSAGE, **STREAM, **USED},
        {**MESSAGE, **STREAM, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        {**MESSAGE, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        {**MESSAGE, **STREAM, "messages": said("late")},
        {**MESSAGE, **USED, "messages": said("cut")},
        {**MESSAGE, "messages": said("long")},
    ],
    ("POST", "/v1/messages/count_tokens"): [CHAT],
    ("POST", "/api/chat"): [
        CHAT,
        {**CHAT, **WHOLE},
        {**CHAT, **OFFERED},
        {**CHAT, **WHOLE, **OFFERED},
        {**CHAT, "logprobs": True, "top_logprobs": 1},
        {**CHAT, "messages": said("late")},
        {**CHAT, "messages": said("long")},
        {"model": "m"},
    ],
    ("POST", "/api/generate"): [
        PROMPT,
        {**PROMPT, **WHOLE},
        {**PROMPT, "think": True},
        {"model": "m"},
        {"model": "none", "prompt": "a"},
    ],
    ("POST", "/api/embed"): [{"model": "e", "input": ["a"]}, {"model": "none", "input": "a"}],
    ("POST", "/api/embeddings"): [{"model": "e", "prompt": "a"}],
    ("GET", "/api/tags"): [None],
    ("GET", "/api/ps"): [None],
    ("GET", "/api/version"): [None],
    ("POST", "/api/show"): [{"model": "m"}, {"name": "e"}, {"model": "none"}],
    # Of a real download: tests/integration/gateway/ollama/test_ollama_pull.py.
    ("POST", "/api/pull"): [{"model": "m"}],
    ("POST", "/api/copy"): [{"source": "none", "destination": "a"}],
    ("DELETE", "/api/delete"): [{"model": "m"}],
    ("GET", "/txt"): [None],
    ("POST", "/txt"): [{"prompt": "hello"}, {"prompt": "hello", **STREAM}, {}],
    ("GET", "/img"): [None],
    ("POST", "/img"): [{"prompt": "a"}],
    ("GET", "/list_models"): [None],
    ("POST", "/users"): [{"username": "a"}],
    ("POST", "/sessions"): [{"user_id": 1}],
    ("GET", "/sessions/{session_id}"): [None],
    ("POST", "/generate-text"): [{"session_id": 1, "action": "go"}],
    ("POST", "/generate-image"): [{"description": "a"}],
    ("POST", "/mcp"): [CALLED, {**CALLED, "method": "none"}],
}


class Talkative(Everything):
    """Thinks, where it is asked to, and writes calls in parts."""

    async def count_tokens(self, asked: GenerateRequest) -> int:
        return 3

    async def generate(self, asked: GenerateRequest) -> AsyncGenerator[Chunk]:
        word = (asked.messages or (None,))[-1]
        if asked.params.think:
            yield Chunk("", thinking="hm")
        if asked.tools and word and word.role == "user" and word.content in ("hello", "cut"):
            yield Chunk("I look.")
            for part in (CallPart('{"at"', "c1", "weather"), CallPart(': "B')):
                yield Chunk("", call_parts=(part,))
            if word.content == "cut":
                yield Chunk("", done=True, reason="length", warning="cut")
                return
            yield Chunk("", call_parts=(CallPart('"}'),))
            call = ToolCall(id="c1", name="weather", arguments='{"at": "B"}')
            yield Chunk("", tool_calls=(call,))
            yield END
            return
        async for chunk in super().generate(asked):
            yield chunk


def closed(schema: Any) -> Any:
    """The schema without room for other keys than it names."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def values(media: str, body: bytes) -> Iterator[Any]:
    """What the schema of a media type is about."""
    if media == "application/json":
        yield json.loads(body)
    elif media == "application/x-ndjson":
        yield from map(json.loads, body.splitlines())
    else:
        assert media == "text/event-stream"
        for event in body.decode().split("\n\n"):
            data = event.partition("data: ")[2] if "data: " in event else ""
            if data:
                yield data if data == "[DONE]" else json.loads(data)


async def check(
    address: str, document: Json, method: str, path: str, body: Json | None, token: str = ""
) -> tuple[int, str]:
    """(status, media type) of an answer that its schema takes."""
    operation = document["paths"][path][method.lower()]
    place = path.replace("{model}", "m").replace("{session_id}", "1")
    sent = b"" if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if sent else {}
    headers |= bearer(token)
    answer = await exchange(address, request(method, place, headers, sent))
    media = answer.headers["content-type"].partition(";")[0]
    described = operation["responses"]["200" if answer.status == 200 else "default"]["content"]
    assert media in described, (path, body, answer)
    if not media.startswith("image/"):
        judge = Draft202012Validator(closed(described[media]["schema"]))
        for value in values(media, answer.body):
            problems = [f"{e.json_path}: {e.message}" for e in judge.iter_errors(value)]
            assert not problems, (path, body, value, problems)
    if body is not None and answer.status == 200:
        asked = operation["requestBody"]["content"]["application/json"]["schema"]
        assert Draft202012Validator(asked).is_valid(body), (path, body)
    return answer.status, media


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


async def document_of(address: str, token: str = "") -> Json:
    raw = request("GET", "/openapi.json", bearer(token))
    found: Json = json.loads((await exchange(address, raw)).body)
    return found


async def test_every_answer_is_what_the_document_says(node_factory: NodeFactory) -> None:
    node, address = await gateway_node(node_factory, Talkative())
    token = await new_token(node, "operate")
    document = await document_of(address, token)
    listed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation["tags"] == ["gateway"]
    }
    assert listed == set(ASKED)
    seen: dict[str, set[str]] = {}
    for (method, path), bodies in ASKED.items():
        for body in bodies:
            status, media = await check(address, document, method, path, body, token)
            if status == 200:
                seen.setdefault(path, set()).add(media)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        assert seen[path] == {"application/json", "text/event-stream"}
    for path in ("/api/chat", "/api/generate"):
        assert seen[path] == {"application/json", "application/x-ndjson"}
    lacking = {path for _, path in listed} - seen.keys()
    assert lacking == {
        "/api/copy",
        "/api/pull",
        "/api/delete",
        "/v1/images/generations",
        "/generate-image",
    }


async def test_pictures_are_what_the_document_says(node_factory: NodeFactory) -> None:
    async with drawing_node(node_factory, "openai", FakeOpenAiImages()) as address:
        document = await document_of(address)
        for path in ("/v1/images/generations", "/img", "/generate-image"):
            (body, *_) = ASKED["POST", path]
            assert await check(address, document, "POST", path, body) == (200, "application/json")


def test_a_new_key_is_found() -> None:
    """The check itself: schemas have room for keys that clients skip, the test has none."""
    schema = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
    value = {"a": 1, "b": 2}
    assert Draft202012Validator(schema).is_valid(value)
    with pytest.raises(Exception, match="'b' was unexpected"):
        Draft202012Validator(closed(schema)).validate(value)
