"""The schemas of requests in the OpenAPI document accept and refuse what the readers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest
from jsonschema import Draft202012Validator

from aitorrent_gateway.anthropic import requests as anthropic
from aitorrent_gateway.openai import requests as openai
from aitorrent_gateway.openai.responses import requests as responses
from aitorrentd.api import InvalidParams

HI = {"role": "user", "content": "hi"}
BODIES: list[Any] = [
    pytest.param(openai.chat, openai.chat_body, {"messages": [HI]}, id="chat"),
    pytest.param(openai.completion, openai.completion_body, {"prompt": "a"}, id="completion"),
    pytest.param(responses.response, responses.response_body, {"input": "a"}, id="response"),
    pytest.param(
        anthropic.asked,
        anthropic.message_body,
        {"model": "m", "max_tokens": 5, "messages": [HI]},
        id="message",
    ),
]
BAD: list[tuple[str, Any]] = [
    ("temperature", -1),
    ("temperature", "hot"),
    ("top_p", 2),
    ("top_p", -0.1),
    ("top_k", "many"),
    ("model", 3),
    ("stream", "yes"),
]


@pytest.mark.parametrize(("read", "schema", "body"), BODIES)
def test_schema_and_reader_agree(
    read: Callable[[Mapping[str, Any]], object],
    schema: Callable[[], dict[str, Any]],
    body: dict[str, Any],
) -> None:
    shape = schema()
    Draft202012Validator.check_schema(shape)
    check = Draft202012Validator(shape)
    for good in (
        {},
        {"temperature": 0.5, "top_p": 1, "stream": True, "frobnicate": 1},
        {"temperature": 0, "top_p": 0},
    ):
        read(body | good)
        assert check.is_valid(body | good)
    for name, value in BAD:
        with pytest.raises(InvalidParams) as e:
            read(body | {name: value})
        assert e.value.data["param"] == name
        (error,) = check.iter_errors(body | {name: value})
        assert error.path[0] == name
    for name in shape["required"]:
        less = {key: value for key, value in body.items() if key != name}
        with pytest.raises(InvalidParams):
            read(less)
        assert not check.is_valid(less)


@pytest.mark.slow
def test_frozen_document_is_valid_openapi() -> None:
    golden = Path(__file__).parents[2] / "golden" / "openapi.json"
    openapi_spec_validator.validate(json.loads(golden.read_text()))
