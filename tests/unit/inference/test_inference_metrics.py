"""What the router measures of its answers."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    GenerateRequest,
    GenerationEnded,
    NotFound,
    Unavailable,
)
from aitorrentd.api.monitoring.exposition import text_of
from tests.support.inference_fakes import FakeBackend, FakeRouter, make_node
from tests.support.inference_fakes import text_of as whole
from tests.support.scraping import Scrape
from tests.support.transport.memory_network import MemoryNetwork


def ask(model: str = "m") -> GenerateRequest:
    return GenerateRequest(model=model, prompt="hello")


def measured(node: FakeRouter) -> Scrape:
    return Scrape(text_of(node.router.metrics.read()))


async def test_first_token_gaps_and_tokens_are_measured() -> None:
    node = make_node()
    last = Chunk(
        "",
        done=True,
        reason="length",
        prompt_tokens=12,
        completion_tokens=3,
        extra={"cached_tokens": 5},
    )
    with node.having(FakeBackend("a", words=["x", "y", "z"], last=last)):
        node.clock.now += 10
        async for chunk in node.router.generate(ask()):
            node.clock.now += 0.5 if chunk.text else 0
    shown = measured(node)
    assert shown.of("aitorrent_generations_total") == {'{backend="a",reason="length"}': 1}
    assert shown.values['aitorrent_time_to_first_token_seconds_count{backend="a"}'] == 1
    assert shown.values['aitorrent_inter_token_seconds_count{backend="a"}'] == 2
    assert shown.values['aitorrent_inter_token_seconds_sum{backend="a"}'] == 1.0
    assert shown.values['aitorrent_generation_seconds_sum{backend="a"}'] == 1.5
    assert shown.values['aitorrent_prompt_tokens_total{model="m"}'] == 12
    assert shown.values["aitorrent_prompt_tokens_cached_total"] == 5
    assert shown.values['aitorrent_completion_tokens_total{model="m"}'] == 3
    ended = node.events[-1]
    assert isinstance(ended, GenerationEnded)
    assert (ended.first_token_s, ended.cached_tokens, ended.took_s) == (0.0, 5, 1.5)


@pytest.mark.parametrize(
    ("backend", "model", "error", "labels"),
    [
        (FakeBackend("a", words=[], fails=Unavailable("x")), "m", Unavailable, "none"),
        (FakeBackend("a", fails=Unavailable("x")), "m", Unavailable, "a"),
        (FakeBackend("a"), "another", NotFound, "none"),
        # Without a place nothing began, which is no failed answer; later, it is one.
        (FakeBackend("a", words=[], fails=Busy("full")), "m", Busy, "none"),
        (FakeBackend("a", fails=Busy("full")), "m", Busy, "a"),
    ],
)
async def test_failures_are_counted_by_who_failed(
    backend: FakeBackend, model: str, error: type[AitorrentError], labels: str
) -> None:
    node = make_node()
    with node.having(backend), pytest.raises(error):
        await whole(node.router.generate(ask(model)))
    shown = measured(node)
    reason = "busy" if error is Busy and labels == "none" else "error"
    name = f'{{backend="{labels}",reason="{reason}"}}'
    assert shown.of("aitorrent_generations_total") == {name: 1}
    assert "another" not in shown.text


async def test_answers_of_peers_name_neither_peer_nor_model() -> None:
    net = MemoryNetwork()
    here, there = make_node(0, net), make_node(1, net)
    with there.having(FakeBackend("b", models=["secret"])):
        asked = here.router.generate(ask("secret"), backend=f"peer:{there.id}")
        assert await whole(asked) == "one two"
    shown = measured(here)
    assert shown.of("aitorrent_generations_total") == {'{backend="peer",reason="stop"}': 1}
    assert shown.of("aitorrent_completion_tokens_total") == {'{model="other"}': 2}
    assert "secret" not in shown.text
    await net.close()


async def test_answer_that_is_left_counts_as_cancelled_with_its_tokens() -> None:
    """vllm#31503: aborted requests were never counted; vllm#55634: some of their tokens were."""
    node = make_node()
    with node.having(FakeBackend("a", words=["x", "y", "z"], hangs=True)):
        async with aclosing(node.router.generate(ask())) as chunks:
            async for chunk in chunks:
                if chunk.text == "z":
                    break
        shown = measured(node)
    assert shown.of("aitorrent_generations_total") == {'{backend="a",reason="cancelled"}': 1}
    assert shown.of("aitorrent_completion_tokens_total") == {'{model="m"}': 3}
    assert shown.values["aitorrent_generations_running"] == 0
    assert shown.values["aitorrent_generations_queued"] == 0
    ended = node.events[-1]
    assert isinstance(ended, GenerationEnded)
    assert (ended.reason, ended.completion_tokens) == ("cancelled", 3)


async def test_first_token_is_counted_once_for_each_answer_that_has_one() -> None:
    """vllm#8115: twice as many first tokens as answers. One without output has none."""
    node = make_node()
    empty = Chunk("", done=True, reason="stop", prompt_tokens=3)
    with node.having(FakeBackend("a")):
        for _ in range(3):
            await whole(node.router.generate(ask()))
    with node.having(FakeBackend("a", words=[], last=empty)):
        await whole(node.router.generate(ask()))
    shown = measured(node)
    assert shown.values['aitorrent_time_to_first_token_seconds_count{backend="a"}'] == 3
    assert shown.values['aitorrent_generation_seconds_count{backend="a"}'] == 4
    assert shown.values['aitorrent_generations_total{backend="a",reason="stop"}'] == 4


async def test_running_answers_are_no_longer_running_after_a_failure() -> None:
    """A gauge that is not put back stays wrong until the next start."""
    node = make_node(max_local=1)
    with node.having(FakeBackend("a", fails=Unavailable("x"))):
        for _ in range(3):
            with pytest.raises(Unavailable):
                await whole(node.router.generate(ask()))
    assert measured(node).values["aitorrent_generations_running"] == 0
