"""Log-probabilities of a split model: exact at any temperature, and the same after a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models

from aitorrent_shards.models.token_texts import TokenTexts
from aitorrentd.api import Chunk, GenerateRequest, InvalidParams, SamplingParams, StageLost
from tests.support.shards.shards_fakes import (
    EOS,
    VOCAB,
    FakeNode,
    toy_logits,
    toy_network,
    toy_rows,
)

pytestmark = pytest.mark.jump_clock

PROMPT = "hello"
PAIRS = ["none", "0-3", "3-6", "0-3", "3-6"]


def request(**params: Any) -> GenerateRequest:
    usual = {"max_tokens": 8, "logprobs": True, "seed": 5}
    return GenerateRequest(
        model="toy", prompt=PROMPT, params=SamplingParams.model_validate(usual | params)
    )


async def answer(node: FakeNode, asked: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in node.shards.backend.generate(asked)]


def expected(prompt: Sequence[int], answer: Sequence[int]) -> list[list[float]]:
    """The log-probabilities of all tokens at each place of an answer."""
    found = []
    for row in toy_rows(prompt, answer):
        logits = toy_logits(row)
        total = math.log(math.fsum(map(math.exp, logits)))
        found.append([x - total for x in logits])
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("is_lost", [False, True])
async def test_logprobs_are_those_of_the_model_before_any_parameter(
    tmp_path: Path, temperature: float, is_lost: bool
) -> None:
    async with toy_network(tmp_path, *PAIRS) as nodes:
        asked = request(
            temperature=temperature, top_logprobs=5, presence_penalty=1.5, logit_bias={"7": 3}
        )
        if is_lost:
            last = min(nodes[2], nodes[4], key=lambda n: n.id)
            last.workers[-1].kill_at_step = 4
        found = await answer(nodes[0], asked)
        assert any(isinstance(e, StageLost) for e in nodes[0].events) == is_lost
    ids = [i for c in found for i in c.token_ids]
    scores = [s for c in found for s in c.logprobs]
    assert len(ids) == 8
    assert [s.token_id for s in scores] == ids
    text = b"".join(s.raw or b"" for s in scores).decode("utf-8", "replace")
    assert text.startswith("".join(c.text for c in found))
    prompt = nodes[0].shards.models["toy"].tokenizer
    assert prompt is not None
    for score, right in zip(scores, expected(prompt.encode(PROMPT), ids), strict=True):
        assert score.logprob == pytest.approx(right[score.token_id or 0], abs=1e-5)
        best = sorted(range(VOCAB), key=lambda i: (-right[i], i))[:5]
        assert [t.token_id for t in score.top] == best
        assert [t.logprob for t in score.top] == pytest.approx([right[i] for i in best], abs=1e-5)


async def test_end_token_has_no_logprob(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        asked = request(temperature=0, logit_bias={str(EOS): 100})
        found = await answer(nodes[0], asked)
        assert (found[-1].reason, found[-1].completion_tokens) == ("stop", 1)
        assert [s for c in found for s in c.logprobs] == []


async def test_bias_forces_and_forbids_tokens(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        plain = await nodes[0].tokens(request(temperature=0))
        bias = {token: -100 for token in plain}
        other = await nodes[0].tokens(request(temperature=0, logit_bias=bias))
        assert not set(plain) & set(other)
        forced = await nodes[0].tokens(request(temperature=1.0, logit_bias={"9": 100}))
        assert forced == [9] * 8
        with pytest.raises(InvalidParams, match=r"logit_bias names the token 258; .* 0 to 257"):
            await nodes[0].tokens(request(logit_bias={"258": 1}))


def test_tokens_have_the_bytes_that_they_stand_for() -> None:
    vocab = {"<unk>": 0, "<0xF0>": 1, "\u2581hi": 2, "x": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<|end|>"])
    texts = TokenTexts(tokenizer)
    assert [texts.raw(i) for i in (1, 2, 3, 4, 99)] == [b"\xf0", b" hi", b"x", b"<|end|>", b""]
