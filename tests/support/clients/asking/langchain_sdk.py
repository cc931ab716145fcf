"""Asks a node by LangChain; ends with an error if an answer is not right.

python langchain_sdk.py http://127.0.0.1:8000
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Literal

from openai import BadRequestError
from pydantic import BaseModel


class Place(BaseModel):
    at: Literal["Bern", "Rome"]


def look(at: str) -> str:
    """The weather at a place."""
    return "sun"


def main(url: str) -> None:
    # It is not installed where types are checked.
    openai: Any = importlib.import_module("langchain_openai")
    messages: Any = importlib.import_module("langchain_core.messages")
    at = {"base_url": f"{url}/v1", "api_key": "none"}
    tool = importlib.import_module("langchain_core.tools").tool(look)
    for uses_responses in (False, True):
        make: Any = openai.ChatOpenAI
        model = make(model="m", use_responses_api=uses_responses, **at)
        assert model.invoke("hello").usage_metadata["total_tokens"] > 1
        assert "".join(part.text for part in model.stream("hello"))
        assert isinstance(model.with_structured_output(Place).invoke("hello"), Place)
        with_tools = model.bind_tools([tool])
        called = with_tools.invoke("hello")
        (call,) = called.tool_calls
        assert (call["name"], call["args"]) == ("look", {"at": "Bern"})
        parts = list(with_tools.stream("hello"))
        pieces = [c["args"] for part in parts for c in part.tool_call_chunks if c["args"]]
        assert pieces
        gathered = sum(parts[1:], parts[0])
        assert [(c["name"], c["args"]) for c in gathered.tool_calls] == [("look", {"at": "Bern"})]
        turns = [messages.HumanMessage("hello"), called]
        turns.append(messages.ToolMessage("sun", tool_call_id=call["id"]))
        assert with_tools.invoke(turns).text == "It is sunny there."
    vectors = openai.OpenAIEmbeddings(model="embed", check_embedding_ctx_length=False, **at)
    assert len(vectors.embed_documents(["one", "two"])) == 2
    try:
        openai.OpenAIEmbeddings(model="text-embedding-3-small", **at).client.create(
            model="embed", input=[[1, 2]]
        )
    except BadRequestError as error:
        assert "check_embedding_ctx_length=False" in str(error)
    else:
        raise AssertionError("token ids of another model were taken")
    print("right")


if __name__ == "__main__":
    main(sys.argv[1])
