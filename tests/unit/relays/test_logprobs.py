"""Log-probabilities that model servers send reach the answer; without them, it says so."""

from __future__ import annotations

import pytest

from aitorrent_ollama.answers import AnswerReader as OllamaReader
from aitorrent_ollama.requests import request_body
from aitorrent_openai.chunks import AnswerReader as OpenaiReader
from aitorrent_openai.requests import chat_body, completion_body
from aitorrentd.api import GenerateRequest, InvalidParams, ProtocolError, SamplingParams
from aitorrentd.api.models.logprobs import TokenLogprob

ENTRY = {
    "token": "hi",
    "logprob": -0.25,
    "bytes": [104, 105],
    "top_logprobs": [{"token": "hi", "logprob": -0.25, "bytes": None}],
}
READ = TokenLogprob("hi", -0.25, None, b"hi", (TokenLogprob("hi", -0.25),))
LACKING = "sent no logprobs; it does not support them"


def asked(**params: object) -> GenerateRequest:
    usual = {"logprobs": True, "top_logprobs": 2}
    return GenerateRequest(
        model="m", prompt="x", raw=True, params=SamplingParams.model_validate(usual | params)
    )


def test_requests_ask_for_them_in_each_dialect() -> None:
    _, ollama = request_body(asked(), None)
    assert (ollama["logprobs"], ollama["top_logprobs"]) == (True, 2)
    chat = chat_body(asked(logit_bias={7: -100}))
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 2)
    assert chat["logit_bias"] == {"7": -100}
    assert completion_body(asked())["logprobs"] == 2
    with pytest.raises(InvalidParams, match="Ollama cannot apply logit_bias"):
        request_body(asked(logit_bias={7: 1}), None)


def test_ollamas_logprobs_are_read() -> None:
    reader = OllamaReader(None, logprobs=True)
    assert reader.read({"response": "hi", "logprobs": [ENTRY]}).logprobs == (READ,)
    assert reader.read({"response": "", "done": True, "done_reason": "stop"}).warning == ""
    old = OllamaReader(None, logprobs=True)
    last = old.read({"response": "hi", "done": True, "done_reason": "stop"})
    assert LACKING in last.warning
    with pytest.raises(ProtocolError, match="Ollama sent a logprob without its token"):
        reader.read({"response": "hi", "logprobs": [{"token": 1}]})


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ({"delta": {"content": "hi"}, "logprobs": {"content": [ENTRY], "refusal": None}}, READ),
        (
            {
                "text": "hi",
                "logprobs": {
                    "tokens": ["hi"],
                    "token_logprobs": [-0.25],
                    "top_logprobs": [{"hi": -0.25}],
                    "text_offset": [0],
                },
            },
            TokenLogprob("hi", -0.25, None, None, (TokenLogprob("hi", -0.25),)),
        ),
    ],
)
def test_openais_logprobs_are_read(choice: dict[str, object], found: TokenLogprob) -> None:
    reader = OpenaiReader("s", logprobs=True)
    assert reader.read({"choices": [choice]}).logprobs == (found,)
    reader.read({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    assert reader.finish(said_done=True).warning == ""


def test_answer_without_requested_logprobs_says_so() -> None:
    reader = OpenaiReader("s", logprobs=True)
    reader.read({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]})
    assert LACKING in reader.finish(said_done=True).warning
    for wrong in ([1], "x", {"tokens": ["a"], "token_logprobs": []}):
        with pytest.raises(ProtocolError, match="s sent .*logprob"):
            reader.read({"choices": [{"delta": {"content": "a"}, "logprobs": wrong}]})
