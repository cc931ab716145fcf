"""Asks a node by Anthropic's own Python client; ends with an error if an answer is not right.

python anthropic_sdk.py http://127.0.0.1:8000
"""

from __future__ import annotations

import sys
from typing import Any, Final

import anthropic
from anthropic import Anthropic

ASKED: Final[Any] = [{"role": "user", "content": "hello"}]
GREEDY: Final = {"temperature": 0}
"The client's types no longer have it."
LOOK: Final[Any] = {
    "name": "look",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}


def texts(client: Anthropic) -> None:
    """Whole, streamed, counted."""
    assert "m" in {model.id for model in client.models.list()}
    whole = client.messages.create(model="m", messages=ASKED, max_tokens=8, extra_body=GREEDY)
    (block,) = whole.content
    assert block.type == "text" and block.text
    with client.messages.stream(
        model="m", messages=ASKED, max_tokens=8, extra_body=GREEDY
    ) as stream:
        assert "".join(stream.text_stream) == block.text
        assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
    counted = client.messages.count_tokens(model="m", messages=ASKED)
    assert counted.input_tokens == whole.usage.input_tokens


def tools(client: Anthropic) -> None:
    """A call and its result."""
    with client.messages.stream(
        model="m", messages=ASKED, max_tokens=50, tools=[LOOK], tool_choice={"type": "any"}
    ) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        first = stream.get_final_message()
    assert parts
    (used,) = (block for block in first.content if block.type == "tool_use")
    assert (used.input, first.stop_reason) == ({"at": "Bern"}, "tool_use")
    result: Any = {"type": "tool_result", "tool_use_id": used.id, "content": "sun"}
    turns = [*ASKED, first.to_param(), {"role": "user", "content": [result]}]
    told = client.messages.create(model="m", messages=turns, max_tokens=50, tools=[LOOK])
    (block,) = told.content
    assert block.type == "text" and block.text == "It is sunny there."


def errors(client: Anthropic) -> None:
    """What agents look for."""
    long: Any = [{"role": "user", "content": "word " * 4000}]
    found = []
    for model, messages in (("m", long), ("none", ASKED), ("gap", ASKED)):
        try:
            client.messages.create(model=model, messages=messages, max_tokens=9)
        except anthropic.APIStatusError as error:
            found.append((error.status_code, error.type, str(error)))
    assert [status for status, _, _ in found] == [400, 404, 503]
    assert "prompt is too long: " in found[0][2]
    assert found[1][1] == "not_found_error"
    assert "layers 1-3 of gap" in found[2][2]


def main(url: str) -> None:
    with Anthropic(base_url=url, api_key="none") as client:
        for check in (texts, tools, errors):
            check(client)
            print(check.__name__)


if __name__ == "__main__":
    main(sys.argv[1])
