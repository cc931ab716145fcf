"""Asks a node by OpenAI's own Python client; ends with an error if an answer is not right.

python openai_sdk.py http://127.0.0.1:8000
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final, Literal

import openai
from openai import OpenAI
from pydantic import BaseModel

ASKED: Final[Any] = [{"role": "user", "content": "hello"}]
SCHEMA: Final = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
FUNCTION: Final[Any] = {"name": "look", "parameters": SCHEMA}


class Verdict(BaseModel):
    fine: bool
    why: Literal["a", "b"]


def chats(client: OpenAI) -> None:
    """Whole and streamed, several choices, stops, seeds, log-probabilities."""
    asked: Any = {"model": "m", "messages": ASKED, "temperature": 0, "max_tokens": 8}
    both = client.chat.completions.create(**asked, n=2, logprobs=True, top_logprobs=2)
    first, second = both.choices
    expected = first.message.content or ""
    assert expected and second.message.content == expected
    assert both.usage is not None
    assert both.model_extra is not None
    assert both.model_extra["x_aitorrent"]["stages"] == [[0, 1], [1, 2], [2, 3]]
    assert first.logprobs is not None
    tokens = first.logprobs.content or []
    assert "".join(each.token for each in tokens) == expected
    for each in tokens:
        assert each.top_logprobs[0].logprob == each.logprob >= each.top_logprobs[1].logprob
    text, usage, reasons = "", None, []
    for chunk in client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons.append(choice.finish_reason)
    assert (text, reasons[-1]) == (expected, first.finish_reason)
    assert usage is not None and usage.completion_tokens * 2 == both.usage.completion_tokens
    stop = expected[1:3]
    stopped = client.chat.completions.create(**asked, stop=[stop, "never"])
    assert stopped.choices[0].message.content == expected[: expected.index(stop)]
    drawn = [
        client.chat.completions.create(**asked | {"temperature": 2, "seed": seed})
        for seed in (-7, -7, *range(5))
    ]
    texts = [each.choices[0].message.content for each in drawn]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 2, texts
    legacy = client.completions.create(model="m", prompt="hello", max_tokens=4, temperature=0)
    assert legacy.usage is not None and legacy.usage.completion_tokens <= 4
    with_echo = refused(lambda: client.completions.create(model="m", prompt="a", echo=True))
    assert (with_echo.status_code, with_echo.param) == (400, "echo")


def structures(client: OpenAI) -> None:
    """JSON that follows a schema, by a model that writes at random."""
    for seed in range(50):
        parsed = client.chat.completions.parse(
            model="m", messages=ASKED, response_format=Verdict, seed=seed, temperature=1.5
        )
        assert parsed.choices[0].message.parsed is not None


def tools(client: OpenAI) -> None:
    """A call and its result, whole, streamed, and as a response."""
    offered: Any = [{"type": "function", "function": FUNCTION}]
    whole = client.chat.completions.create(model="m", messages=ASKED, tools=offered)
    with client.chat.completions.stream(model="m", messages=ASKED, tools=offered) as stream:
        parts = [
            event.arguments_delta
            for event in stream
            if event.type == "tool_calls.function.arguments.delta"
        ]
        streamed = stream.get_final_completion()
    assert parts
    assert json.loads("".join(parts)) == {"at": "Bern"}
    made: Any
    for choice in (whole.choices[0], streamed.choices[0]):
        assert choice.finish_reason == "tool_calls"
        (made,) = choice.message.tool_calls or (None,)
        assert json.loads(made.function.arguments) == {"at": "Bern"}
    several(client, offered)
    turns = [*ASKED, whole.choices[0].message]
    turns.append({"role": "tool", "tool_call_id": made.id, "content": "sun"})
    after = client.chat.completions.create(model="m", messages=turns, tools=offered)
    assert after.choices[0].message.content == "It is sunny there."
    flat: Any = [{"type": "function", **FUNCTION, "strict": True}]
    with client.responses.stream(model="m", input="hello", tools=flat) as events:
        steps = [event.type for event in events]
        assert "response.function_call_arguments.delta" in steps
        (item,) = events.get_final_response().output
    assert (steps[0], steps[-1]) == ("response.created", "response.completed")
    assert item.type == "function_call"
    found = {"type": "function_call_output", "call_id": item.call_id, "output": "sun"}
    again: Any = [*ASKED, item.to_dict(), found]
    told = client.responses.create(model="m", input=again, tools=flat)
    assert told.output_text == "It is sunny there."
    said = client.responses.create(model="m", input="hello", temperature=0, max_output_tokens=8)
    assert said.output_text


def several(client: OpenAI, offered: Any) -> None:
    """Two choices with a call each, whose parts arrive in turn; a call that must be made."""
    named: Any = {"type": "function", "function": {"name": "look"}}
    for more in ({"n": 2}, {"n": 2, "tool_choice": named, "parallel_tool_calls": False}):
        put: dict[int, str] = {}
        begun: set[int] = set()
        for chunk in client.chat.completions.create(
            model="m", messages=ASKED, tools=offered, stream=True, **more
        ):
            for choice in chunk.choices:
                for call in choice.delta.tool_calls or ():
                    assert call.index == 0 and call.function is not None
                    is_first = choice.index not in begun
                    assert (call.function.name == "look") is is_first is bool(call.id)
                    begun.add(choice.index)
                    put[choice.index] = put.get(choice.index, "") + (call.function.arguments or "")
        assert [json.loads(put[n]).keys() for n in (0, 1)] == [{"at"}] * 2, put


def embeddings(client: OpenAI) -> None:
    """The client asks for base64 unless told otherwise."""
    coded = client.embeddings.create(model="embed", input=["one", "two"])
    plain = client.embeddings.create(model="embed", input=["one", "two"], encoding_format="float")
    vectors = [row.embedding for row in coded.data]
    assert len(vectors) == 2 and len(vectors[0]) > 1
    assert vectors == [row.embedding for row in plain.data]


def refused(call: Callable[[], object]) -> Any:
    """The error that a call raises."""
    try:
        call()
    except openai.APIStatusError as error:
        assert error.request_id
        return error
    raise AssertionError("not refused")


def errors(client: OpenAI) -> None:
    """Each class of error; the node counts how often it was asked."""
    chat: Any = client.chat.completions.create
    wrong = refused(lambda: chat(model="m", messages=ASKED, temperature="hot"))
    assert isinstance(wrong, openai.BadRequestError) and wrong.param == "temperature"
    long: Any = [{"role": "user", "content": "word " * 4000}]
    error = refused(lambda: chat(model="m", messages=long, stream=True))
    assert isinstance(error, openai.BadRequestError)
    assert error.code == "context_length_exceeded"
    stranger = client.with_options(api_key="ait_" + "x" * 43)
    assert isinstance(refused(stranger.models.list), openai.AuthenticationError)
    error = refused(lambda: chat(model="none", messages=ASKED))
    assert isinstance(error, openai.NotFoundError) and error.code == "model_not_found"
    lost = refused(lambda: chat(model="gap", messages=ASKED))
    assert isinstance(lost, openai.InternalServerError)
    assert (lost.status_code, lost.code) == (503, "layers_unavailable"), lost
    assert "layers 1-3 of gap" in lost.message, lost.message


def main(url: str) -> None:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as client:
        assert {"m", "embed"} <= {model.id for model in client.models.list()}
        for check in (chats, structures, tools, embeddings, errors):
            check(client)
            print(check.__name__)


if __name__ == "__main__":
    main(sys.argv[1])
