"""Asks a node by Ollama's own Python client; ends with an error if an answer is not right.

python ollama_sdk.py http://127.0.0.1:8000
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final

import ollama
from ollama import Client

ASKED: Final[Any] = [{"role": "user", "content": "hello"}]
GREEDY: Final = {"temperature": 0, "num_predict": 8}
LOOK: Final[Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}


def facts(client: Client) -> None:
    """What there is."""
    assert "m:latest" in {model.model for model in client.list().models}
    shown = client.show("m")
    assert shown.modelinfo is not None and shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo["llama.block_count"] == 3
    assert "m:latest" in {model.model for model in client.ps().models}


def texts(client: Client) -> None:
    """Whole, streamed, continued, as JSON."""
    whole = client.chat("m", ASKED, options=GREEDY)
    assert whole.message.content and whole.eval_count
    parts = list(client.chat("m:latest", ASKED, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (parts[-1].done, parts[-1].done_reason) == (True, whole.done_reason)
    first = client.generate("m", "hello", options=GREEDY)
    assert first.context
    second = client.generate("m", "more", options=GREEDY, context=first.context)
    assert second.context is not None and second.context[: len(first.context)] == first.context
    formed = client.chat("m", ASKED, format={"type": "boolean"})
    assert json.loads(formed.message.content or "") in (True, False)
    vectors = client.embed("embed", ["one", "two"]).embeddings
    assert len(vectors) == 2 and len(vectors[0]) > 1
    old = client.embeddings("embed", "one").embedding
    # /api/embed scales its vectors to length 1, and the older path does not
    scale = sum(number * number for number in old) ** 0.5
    assert all(abs(a / scale - b) < 1e-5 for a, b in zip(old, vectors[0], strict=True))


def tools(client: Client) -> None:
    """A call and its result."""
    called = client.chat("m", ASKED, tools=[LOOK])
    (call,) = called.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("look", {"at": "Bern"})
    turns = [*ASKED, called.message, {"role": "tool", "tool_name": "look", "content": "sun"}]
    assert client.chat("m", turns, tools=[LOOK]).message.content == "It is sunny there."


def errors(client: Client) -> None:
    """Statuses and texts."""
    failing: list[tuple[int, str, Callable[[], object]]] = [
        (404, "model 'none' not found", lambda: client.chat("none", ASKED)),
        (400, "tokens", lambda: client.generate("m", "word " * 4000)),
        (503, "layers 1-3 of gap", lambda: client.chat("gap", ASKED)),
        (501, "does not create or push", lambda: client.create("n", from_="m")),
        (404, "model 'm' not found", lambda: client.delete("m")),
    ]
    for status, text, call in failing:
        try:
            call()
        except ollama.ResponseError as error:
            assert (error.status_code, text in str(error)) == (status, True), error
        else:
            raise AssertionError(text)


def main(url: str) -> None:
    client = Client(host=url)
    for check in (facts, texts, tools, errors):
        check(client)
        print(check.__name__)


if __name__ == "__main__":
    main(sys.argv[1])
