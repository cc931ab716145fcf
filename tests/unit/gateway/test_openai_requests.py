"""Requests of OpenAI's clients: what is honoured, accepted, refused with its name, or hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitorrent_gateway.core.bodies import MAX_DEPTH, json_object
from aitorrent_gateway.openai.requests import chat, completion
from aitorrentd.api import InvalidParams

HELLO = [{"role": "user", "content": "hello"}]


def asked(**fields: Any) -> dict[str, Any]:
    """The parameters that a chat request sets."""
    request = chat({"model": "m", "messages": HELLO, **fields}).request
    return request.params.model_dump(exclude_unset=True)


def fault(body: dict[str, Any], read: Any = chat) -> InvalidParams:
    with pytest.raises(InvalidParams, match=".") as caught:
        read({"model": "m", **body})
    return caught.value


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6, "max_tokens": 5}, {"max_tokens": 6}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"seed": -1}, {"seed": 2**63 - 1}),
        ({"presence_penalty": 1, "frequency_penalty": -1},) * 2,
        ({"top_k": 4, "min_p": 0.1, "repeat_penalty": 1.1},) * 2,
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}},
            {"format": {"a": 1}},
        ),
        ({"reasoning_effort": "minimal"}, {"think": "low"}),
        ({"reasoning_effort": "none"}, {"think": False}),
        # nothing is asked for
        (
            {"tools": [], "tool_choice": "auto", "n": 1, "logit_bias": {}, "logprobs": False}
            | {"top_logprobs": 0, "modalities": ["text"], "user": "u", "store": True},
            {},
        ),
        (dict.fromkeys(("temperature", "tools", "n", "stop", "seed", "response_format")), {}),
    ],
)
def test_parameters(fields: dict[str, Any], params: dict[str, Any]) -> None:
    assert asked(**fields) == params


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"n": 10**9}, "n"),  # n_bomb
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logit_bias": {str(n): 1 for n in range(10**5)}}, "logit_bias"),  # logit_bias_bomb
        ({"audio": {}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"stop": ["x"] * 10**5}, "stop"),  # stop_list_bomb
        ({"stop": [1]}, "stop[0]"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": "1"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"model": 1}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"model": "\ud800"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "root", "content": "a"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "user", "content": 1}]}, "messages[1].content"),
        ({"messages": HELLO * 5000}, "messages"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
            "messages[0].tool_calls",
        ),
        (
            {"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]},
            "messages[0].tool_call_id",
        ),
    ],
)
def test_what_is_not_there_or_wrong_is_refused_with_its_name(
    fields: dict[str, Any], param: str
) -> None:
    error = fault({"messages": HELLO, **fields})
    assert error.data["param"] == param
    assert param.split("[")[0] in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "https://example.org/cat.png",
        "//localhost:8000/v1/models",
        None,
        7,
    ],
)
def test_ssrf_image_url(url: Any) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}}]
    error = fault({"messages": [{"role": "user", "content": parts}]})
    assert error.message == "messages[0].content has an image that is not a data: URL"


def test_image_in_the_request_is_kept() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    (turn,) = chat({"messages": [{"role": "user", "content": parts}]}).request.messages or ()
    assert (turn.content, len(turn.images)) == ("a", 1)


def test_unknown_fields_are_reported_as_far_as_they_can_stand_in_a_header() -> None:
    fields = {"frobnicate": 1, "a\r\nb": 2, "ö": 3, "x" * 41: 4, "unset": None}
    assert chat({"messages": HELLO, **fields}).headers == {"x-aitorrent-ignored": "frobnicate"}
    many = {f"f{n}": 1 for n in range(1000)}
    assert len(chat({"messages": HELLO, **many}).headers["x-aitorrent-ignored"].split(", ")) == 20


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "logprobs": 0}, "logprobs"),
    ],
)
def test_completions_refuse_with_the_name(body: dict[str, Any], param: str) -> None:
    assert fault(body, completion).data["param"] == param


def test_completion_continues_the_text_as_it_is() -> None:
    request = completion({"model": "m", "prompt": ["once"]}).request
    assert (request.prompt, request.raw, request.params.max_tokens) == ("once", True, 16)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{", "not valid JSON: .* at line 1, column 2"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a":NaN}', "has NaN, which is not JSON"),
        (b'{"a":-Infinity}', "has -Infinity"),
        (b'{"model":"a","model":"b"}', "has the key 'model' twice"),
        (b'{"a":{"b":1,"b":2}}', "has the key 'b' twice"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", f"nests more than {MAX_DEPTH} levels"),
        (b'{"a":' + b"[" * 10**6, f"nests more than {MAX_DEPTH} levels"),
        (b'{"a":' + b"9" * 5000 + b"}", "a number that is too long"),
    ],
)
def test_hostile_json(body: bytes, text: str) -> None:
    with pytest.raises(InvalidParams, match=text):
        json_object(body)


def test_deep_but_not_too_deep_json_is_read() -> None:
    deep = {"a": 1}
    for _ in range(MAX_DEPTH - 2):
        deep = {"a": deep}  # type: ignore[dict-item]
    assert json_object(json.dumps(deep).encode()) == deep
