"""Prompts that a server truncated: refused by Ollama where it can, else told with the answer."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrentd.api import AitorrentError, GenerateRequest, InvalidParams, Message, SamplingParams
from aitorrentd.api.relays.truncation import text_bytes, truncation
from tests.support.servers.ollama_server import FakeOllama
from tests.support.servers.openai_server import FakeOpenai
from tests.support.servers.relays import answer
from tests.unit.ollama.test_ollama_backend import backend_of
from tests.unit.openai.test_openai_backend import backend_of as openai_of

LONG = "word " * 4000  # 20,000 bytes


def asking(text: str = LONG, **params: Any) -> GenerateRequest:
    return GenerateRequest(
        model="llama3.2", prompt=text, params=SamplingParams.model_validate(params)
    )


@pytest.mark.parametrize(
    ("sent", "counted", "context", "says"),
    [
        # From reports: the runner until 2025 fills the context, later ones half of it.
        (15_000, 2048, 2048, "read 2048 tokens, all that its context holds"),
        (159_062, 16_386, 32_768, "counted only 16386 tokens in 159062 bytes"),
        (159_062, 16_386, None, "probably truncated"),
        (640_000, 32_770, None, "probably truncated"),
        (15_500, 2050, 4096, "probably truncated"),
        # A conversation that lost its first messages.
        (40_000, 1300, 4096, "probably truncated"),
        (64, 16, 16, "read 16 tokens"),
        (15_000, 4000, 4096, ""),
        (15_000, 4000, None, ""),
        (9000, 2050, None, ""),
        (3000, 100, 4096, ""),
        (4096, 500, 4096, ""),
        (100_000, 0, 2048, ""),
    ],
)
def test_truncated_prompt_is_recognised_by_its_counts(
    sent: int, counted: int, context: int | None, says: str
) -> None:
    told = truncation("Ollama", sent, counted, context, remedy="raise num_ctx")
    assert says in told
    assert bool(told) == bool(says)
    assert told.endswith("shorten it, or raise num_ctx") or not told


def test_size_of_a_request_is_that_of_its_text() -> None:
    messages = (
        Message(role="system", content="é"),
        Message(role="user", content="ab", images=("aGVsbG8=",)),
    )
    assert text_bytes(GenerateRequest(messages=messages)) == 4
    assert text_bytes(asking("abc")) == 3


async def test_ollama_is_told_not_to_truncate() -> None:
    async with FakeOllama() as server, backend_of(server) as backend:
        await answer(backend, asking())
        messages = (Message(role="user", content="hi"),)
        await answer(backend, GenerateRequest(model="llama3.2", messages=messages))
    sent = [r.json() for r in server.requests if r.method == "POST"]
    assert [(body["truncate"], body["shift"]) for body in sent] == [(False, False)] * 2


@pytest.mark.parametrize(
    ("context", "asked", "prompt_tokens", "says"),
    [
        (2048, {}, 2048, "the prompt was truncated: Ollama read 2048 tokens"),
        (2048, {"num_ctx": 9000}, 2048, "the prompt was truncated"),
        (None, {"num_ctx": 2048}, 2048, "the prompt was truncated"),
        (None, {}, 2050, "the prompt was probably truncated"),
        (8192, {}, 4002, ""),
    ],
)
async def test_answer_to_a_truncated_prompt_says_so(
    context: int | None, asked: dict[str, Any], prompt_tokens: int, says: str
) -> None:
    server = FakeOllama(loaded_context=context, prompt_tokens=prompt_tokens)
    async with server, backend_of(server) as backend:
        last = (await answer(backend, asking(**asked)))[-1]
    assert last.warning.startswith(says)
    assert bool(last.warning) == bool(says)


@pytest.mark.parametrize(("text", "is_cut"), [(LONG, True), ("hi", False)])
async def test_openai_server_that_counts_far_too_few_tokens_is_told(
    text: str, is_cut: bool
) -> None:
    async with FakeOpenai() as server, openai_of(server) as backend:
        last = (await answer(backend, GenerateRequest(model="text-model", prompt=text)))[-1]
    assert last.prompt_tokens == 9
    assert last.warning.startswith("the prompt was probably truncated: openai:test") == is_cut
    assert bool(last.warning) == is_cut


@pytest.mark.parametrize(
    "error",
    [
        "the input length exceeds the context length",
        "the prompt is longer than the context length currently available to the model",
        "request (12008 tokens) exceeds the available context size (2048 tokens)",
    ],
)
@pytest.mark.parametrize("status", [400, 500, 200])
async def test_prompt_that_ollama_refuses_is_the_fault_of_the_request(
    error: str, status: int
) -> None:
    async with FakeOllama(refuses=(status, error)) as server, backend_of(server) as backend:
        with pytest.raises(AitorrentError, match="shorten the prompt, or raise num_ctx") as caught:
            await answer(backend, asking())
    assert isinstance(caught.value, InvalidParams)
    assert error in caught.value.message
