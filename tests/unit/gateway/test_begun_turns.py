"""Conversations that end with a turn which the assistant has begun: who wants it continued."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_gateway.anthropic.requests import asked
from aitorrent_gateway.ollama import requests as ollama
from aitorrent_gateway.openai.requests import chat
from aitorrent_openai.requests import chat_body
from aitorrentd.api import GenerateRequest

HELLO = {"role": "user", "content": "hello"}
BEGUN = {"role": "assistant", "content": "The answer is"}
CALL = {"function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("turn", "fields", "continues"),
    [
        (BEGUN, {}, None),  # a turn of its own, as at OpenAI
        (BEGUN, {"continue_final_message": True}, True),
        (BEGUN, {"continue_final_message": True, "add_generation_prompt": False}, True),
        (BEGUN | {"prefix": True}, {}, True),
        (BEGUN | {"prefix": False}, {}, None),
        (HELLO | {"prefix": True}, {}, None),
    ],
)
def test_openai_has_words_for_it(
    turn: dict[str, Any], fields: dict[str, Any], continues: Any
) -> None:
    found = chat({"messages": [HELLO, turn], **fields})
    assert (found.request.params.continues, found.headers) == (continues, {})


def test_anthropic_always_does() -> None:
    blocks = {"role": "assistant", "content": [{"type": "text", "text": "The answer is ("}]}
    made = asked({"messages": [HELLO, blocks]}).request
    assert (made.params.continues, (made.messages or ())[-1].content) == (True, "The answer is (")
    assert asked({"messages": [HELLO]}).request.params.continues is None


@pytest.mark.parametrize(
    ("content", "continues"),
    [("Well, ", True), ([{"type": "text", "text": "Well"}], True), ("", None), (" ", None)],
)
def test_ollama_does_where_there_is_text(content: Any, continues: Any) -> None:
    turn = {"role": "assistant", "content": content}
    for turns, due in (
        ([HELLO, turn], continues),
        ([HELLO, turn, HELLO], None),
        ([HELLO, turn | {"tool_calls": [CALL]}], None),
    ):
        request = ollama.chat({"model": "m", "messages": turns}).request
        assert request is not None
        assert request.params.continues is due


def test_other_servers_are_told_in_words_that_some_know() -> None:
    fields: dict[str, Any] = {"model": "m", "messages": [HELLO, BEGUN]}
    plain = chat_body(GenerateRequest.model_validate(fields))
    asking = chat_body(GenerateRequest.model_validate(fields | {"params": {"continues": True}}))
    words = {"continue_final_message": True, "add_generation_prompt": False}
    assert asking == plain | words


@pytest.mark.parametrize(
    "turns", [[HELLO], [BEGUN | {"content": ""}], [BEGUN | {"tool_calls": [{"name": "f"}]}]]
)
def test_there_is_something_to_continue(turns: list[dict[str, Any]]) -> None:
    fields = {"messages": turns, "params": {"continues": True}}
    with pytest.raises(ValueError, match="requires .messages. that end with text of the assistant"):
        GenerateRequest.model_validate(fields)
