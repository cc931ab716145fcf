"""What backends say that they can do is what they do: the rest they refuse by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aitorrent_ollama.backend import OllamaBackend
from aitorrent_ollama.config import OllamaConfig
from aitorrent_ollama.requests import request_body
from aitorrent_openai.backend import OpenaiBackend
from aitorrent_openai.config import ServerConfig
from aitorrent_openai.requests import chat_body
from aitorrentd.api import Backend, CountsTokens, Embeds, GenerateRequest, InvalidParams
from aitorrentd.api.models.features import FEATURES, Feature, KnowsFeatures, features_used, lacking
from tests.support.clocks import FakeClock
from tests.support.shards.shards_fakes import toy_network

HI = {"role": "user", "content": "hi"}
TOOLS = {"messages": [HI], "tools": [{"name": "look"}]}
METHODS: set[Feature] = {"count_tokens", "embed"}
USES: dict[Feature, dict[str, Any]] = {
    "continues": {
        "messages": [HI, {"role": "assistant", "content": "I am"}],
        "params": {"continues": True},
    },
    "context": {"prompt": "hi", "params": {"context": [1]}},
    "format": {"messages": [HI], "params": {"format": "json"}},
    "images": {"messages": [HI | {"images": ["aGVsbG8="]}]},
    "logit_bias": {"messages": [HI], "params": {"logit_bias": {1: 1}}},
    "logprobs": {"messages": [HI], "params": {"logprobs": True}},
    "num_ctx": {"messages": [HI], "params": {"num_ctx": 9}},
    "parallel_tool_calls": TOOLS | {"parallel_tool_calls": False},
    "repeat_last_n": {"messages": [HI], "params": {"repeat_last_n": 9}},
    "think": {"messages": [HI], "params": {"think": "low"}},
    "tool_choice": TOOLS | {"tool_choice": "required"},
    "tools": TOOLS,
}


def test_each_feature_is_found_in_the_request_that_uses_it() -> None:
    assert set(USES) | METHODS == FEATURES
    for feature, fields in USES.items():
        assert feature in features_used(GenerateRequest.model_validate(fields))
    assert features_used(GenerateRequest(prompt="hi")) == set()


def check(backend: Backend, send: Callable[[GenerateRequest], object]) -> None:
    assert isinstance(backend, KnowsFeatures)
    assert isinstance(backend, Embeds) is ("embed" in backend.features())
    assert isinstance(backend, CountsTokens) is ("count_tokens" in backend.features())
    for feature, fields in USES.items():
        request = GenerateRequest.model_validate(fields)
        if missing := lacking(backend, request):
            with pytest.raises(InvalidParams, match=f"cannot apply .*{missing[-1]}"):
                send(request)
        else:
            assert send(request), feature


def test_relays_refuse_what_they_do_not_state() -> None:
    log, clock = logging.getLogger("test"), FakeClock()
    ollama = OllamaBackend(OllamaConfig(), clock=clock, log=log)
    check(ollama, lambda request: request_body(request, None))
    config = ServerConfig.model_validate({"name": "s", "url": "http://127.0.0.1:1/v1"})
    check(OpenaiBackend(config, clock=clock, log=log), chat_body)


async def test_split_model_refuses_what_it_does_not_state(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        backend = nodes[0].shards.backend
        assert isinstance(backend, CountsTokens) and "count_tokens" in backend.features()
        assert not isinstance(backend, Embeds) and "embed" not in backend.features()
        for fields in USES.values():
            request = GenerateRequest.model_validate(fields)
            if missing := lacking(backend, request):
                why = "images" if missing == ["images"] else f"cannot apply .*{missing[-1]}"
                with pytest.raises(InvalidParams, match=why):
                    await anext(backend.generate(request))
