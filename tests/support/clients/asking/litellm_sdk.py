"""Asks a node by LiteLLM in each dialect; ends with an error if an answer is not right.

python litellm_sdk.py http://127.0.0.1:8000
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def main(url: str) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    # It is not installed where types are checked.
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    bases = {"openai": f"{url}/v1", "ollama_chat": url, "ollama": url, "anthropic": url}

    def asked(dialect: str, model: str, **more: Any) -> Any:
        return litellm.completion(
            model=f"{dialect}/{model}",
            api_base=bases[dialect],
            api_key="none",
            messages=[{"role": "user", "content": "hello"}],
            **more,
        )

    for dialect in bases:
        whole = asked(dialect, "m", temperature=0, max_tokens=8)
        text = whole.choices[0].message.content
        assert text, dialect
        parts = asked(dialect, "m", temperature=0, max_tokens=8, stream=True)
        said = "".join(part.choices[0].delta.content or "" for part in parts)
        assert said.strip() == text.strip(), (dialect, said, text)
        if dialect != "ollama":
            (choice,) = asked(dialect, "m", tools=TOOLS).choices
            (call,) = choice.message.tool_calls
            assert json.loads(call.function.arguments) == {"at": "Bern"}
            assert choice.finish_reason == "tool_calls"
    at = {"api_base": bases["openai"], "api_key": "none"}
    assert litellm.embedding(model="openai/embed", input=["one"], **at).data[0]["embedding"]
    assert litellm.responses(model="openai/m", input="hello", **at).output[0].content[0].text
    errors = []
    for model in ("none", "gap"):
        try:
            asked("openai", model, max_retries=0)
        except Exception as error:
            errors.append(type(error).__name__)
    assert errors == ["NotFoundError", "ServiceUnavailableError"], errors
    print("right")


if __name__ == "__main__":
    main(sys.argv[1])
