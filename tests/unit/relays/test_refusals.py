"""What servers and proxies say when they refuse: the reason is told, and whose fault it is."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from aitorrentd.api import (
    AitorrentError,
    Busy,
    Denied,
    GenerateRequest,
    InvalidParams,
    Message,
    NotFound,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.relays.reported_errors import error_in_body
from tests.support.servers.relays import answer, saying
from tests.unit.ollama.test_ollama_backend import backend_of as ollama_of
from tests.unit.openai.test_openai_backend import backend_of as openai_of

ASKED: Final = GenerateRequest(model="m", messages=(Message(role="user", content="hi"),))


def provider(raw: Any) -> bytes:
    return json.dumps(
        {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": raw}}}
    ).encode()


PAGE: Final = (
    b"<!DOCTYPE html><html><head><style>body { color: red }</style>"
    b"<title>\n 502 Bad&nbsp;Gateway | llm.example.org </title></head><body><h1>x</h1></body>"
)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (provider("the model is overloaded"), "Provider returned error: the model is overloaded"),
        (
            provider('{"error": {"message": "at most 1 image", "code": "invalid"}}'),
            "Provider returned error: at most 1 image",
        ),
        (provider({"error": {"message": "no region"}}), "Provider returned error: no region"),
        (provider(None), "Provider returned error"),
        (PAGE, "502 Bad Gateway | llm.example.org"),
        (b"<h1>Service <b>Unavailable</b></h1><script>1 < 2</script>", "Service Unavailable"),
        (b"<Error><Code>Busy</Code><Message>later</Message></Error>", "Busy later"),
        (b'data: {"error": {"message": "too long"}}\n\ndata: [DONE]\n\n', "too long"),
        (b': x\nevent: error\ndata: {"message": "no memory"}\n\n', "no memory"),
        (b"event: error\ndata: it broke\n\n", "it broke"),
        (b"error: it broke", "it broke"),
        (b"upstream connect error: reset", "upstream connect error: reset"),
        (b"<", "<"),
        (b"", ""),
    ],
)
def test_reason_is_found_in_the_body_of_a_refusal(body: bytes, says: str) -> None:
    assert error_in_body(body).message == says


@pytest.mark.parametrize("mark", [b"<script>", b"<title>", b"<", b"data: ", b": "])
def test_body_of_marks_alone_takes_no_time(mark: bytes) -> None:
    assert len(error_in_body(mark * (65_536 // len(mark))).message) <= 1024


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "Incorrect API key", "code": "invalid_api_key"}, Denied),
        (400, {"message": "API key not valid. Please pass a valid one.", "code": 400}, Denied),
        (402, {"message": "Insufficient credits", "code": 402}, Denied),
        (429, {"message": "You exceeded your quota", "type": "insufficient_quota"}, Denied),
        (400, {"message": "Invalid model: m", "type": "invalid_model"}, NotFound),
        (400, {"message": "no such model", "code": "model_not_found"}, NotFound),
        (405, {"message": "Method Not Allowed"}, Unavailable),
        (409, {"message": "another model is loading"}, Unavailable),
        (425, {"message": "Too Early"}, Unavailable),
        (504, {"message": "upstream timed out"}, TimedOut),
        (503, {"message": "Loading model", "type": "unavailable_error"}, Unavailable),
        (413, {"message": "Payload Too Large"}, InvalidParams),
        (422, {"message": "max_tokens must be positive"}, InvalidParams),
        (429, {"message": "slow down"}, Busy),
    ],
)
async def test_only_a_fault_of_the_request_is_told_as_one(
    status: int, error: dict[str, Any], kind: type[AitorrentError]
) -> None:
    body = json.dumps({"error": error}).encode()
    async with saying(status, body) as server, openai_of(server) as backend:
        with pytest.raises(AitorrentError, match=error["message"]) as caught:
            await answer(backend, ASKED)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidParams), (403, Denied), (405, Unavailable), (429, Busy), (502, Unavailable)],
)
async def test_page_of_a_proxy_before_ollama_is_told_by_its_title(
    status: int, kind: type[AitorrentError]
) -> None:
    async with saying(status, PAGE) as server, ollama_of(server) as backend:
        with pytest.raises(AitorrentError) as caught:
            await answer(backend, ASKED)
    assert type(caught.value) is kind
    assert caught.value.message == "Ollama: 502 Bad Gateway | llm.example.org"
