"""Who answers, in which order, and what happens when somebody fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from typing import Any

import pytest

from aitorrent_inference.routing.answer import Answer
from aitorrent_inference.routing.seats import Seats
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    GenerateRequest,
    GenerationEnded,
    InvalidParams,
    NotFound,
    Record,
    Unavailable,
)
from tests.support.inference_fakes import FakeBackend, make_node, node_id, text_of
from tests.support.nodes import wait_for
from tests.support.transport.memory_network import MemoryNetwork

pytestmark = pytest.mark.jump_clock


def ask(model: str = "m") -> GenerateRequest:
    return GenerateRequest(model=model, prompt="hello")


def apart(net: MemoryNetwork, first_s: float, second_s: float) -> None:
    """Measured round trips from node 0 to nodes 1 and 2."""
    net.apart(node_id(0), node_id(1), first_s)
    net.apart(node_id(0), node_id(2), second_s)


def offer(net: MemoryNetwork, *nodes: int, model: str = "m") -> None:
    for n in nodes:
        key = f"ait:cap:{model}"
        net.records[key, node_id(n)] = Record(key, node_id(n), {"v": 1, "model": model})


async def test_local_backend_that_has_the_model_answers() -> None:
    node = make_node()
    other, ours = FakeBackend("other", ["x"]), FakeBackend("ours", ["m"])
    with node.having(other, ours):
        assert await text_of(node.router.generate(ask())) == "one two"
    assert other.requests == []
    assert [r.model for r in ours.requests] == ["m"]


async def test_empty_model_means_the_first_one() -> None:
    node = make_node()
    with node.having(FakeBackend("a", ["first", "second"])):
        answer = Answer()
        await text_of(node.router.generate(ask(""), answer=answer))
    assert answer.model == "first"


async def test_empty_model_means_the_configured_default() -> None:
    node = make_node(default_model="second")
    with node.having(FakeBackend("a", ["first", "second"])):
        answer = Answer()
        await text_of(node.router.generate(ask(""), answer=answer))
    assert answer.model == "second"


async def test_name_without_a_tag_means_latest() -> None:
    node = make_node()
    backend = FakeBackend("a", ["llama3:latest"])
    with node.having(backend):
        await text_of(node.router.generate(ask("llama3")))
    assert backend.requests[0].model == "llama3:latest"


async def test_further_name_leads_to_its_model() -> None:
    node = make_node(capabilities={"mistral-q4": "mistral"})
    backend = FakeBackend("a", ["mistral"])
    with node.having(backend):
        await text_of(node.router.generate(ask("mistral-q4")))
    assert backend.requests[0].model == "mistral"


async def test_unknown_model_names_the_available_ones() -> None:
    node = make_node()
    with (
        node.having(FakeBackend("a", ["x", "y"]), FakeBackend("b", down=Unavailable("off"))),
        pytest.raises(NotFound, match=r"no model 'm'; available models: x, y; b: off"),
    ):
        await text_of(node.router.generate(ask()))


async def test_no_backend_at_all_is_unavailable() -> None:
    node = make_node(alone=True)
    with pytest.raises(Unavailable, match="this node has no model that can answer"):
        await text_of(node.router.generate(ask("")))


async def test_failure_before_the_first_word_goes_on_with_the_next() -> None:
    node = make_node()
    bad = FakeBackend("bad", words=[], fails=Unavailable("out of memory"))
    good = FakeBackend("good")
    answer = Answer()
    with node.having(bad, good):
        assert await text_of(node.router.generate(ask(), answer=answer)) == "one two"
    assert answer.backend == "good"
    assert answer.failures == ["bad: out of memory"]


async def test_failure_after_the_first_word_is_an_error_and_never_a_stop() -> None:
    node = make_node()
    bad = FakeBackend("bad", fails=Unavailable("layers 4-8 were lost"))
    good = FakeBackend("good")
    chunks: list[Chunk] = []
    with node.having(bad, good), pytest.raises(Unavailable, match="layers 4-8 were lost"):
        async for chunk in node.router.generate(ask()):
            chunks.append(chunk)  # noqa: PERF401
    assert [c.text for c in chunks] == ["one ", "two"]
    assert not any(c.done for c in chunks)
    assert good.requests == []
    ended = node.events[-1]
    assert isinstance(ended, GenerationEnded)
    assert ended.reason == "error"


async def test_answer_that_just_ends_is_an_error() -> None:
    node = make_node()
    with (
        node.having(FakeBackend("a", forgets_done=True)),
        pytest.raises(Unavailable, match="a ended its answer without a reason"),
    ):
        await text_of(node.router.generate(ask()))


async def test_invalid_request_is_not_sent_to_others() -> None:
    node = make_node()
    strict = FakeBackend("strict", words=[], fails=InvalidParams("the prompt is too long"))
    other = FakeBackend("other")
    with node.having(strict, other), pytest.raises(InvalidParams, match="too long"):
        await text_of(node.router.generate(ask()))
    assert other.requests == []


async def test_peer_that_calls_a_request_invalid_does_not_keep_it_from_others() -> None:
    net = MemoryNetwork()
    node, liar, honest = make_node(0, net), make_node(1, net), make_node(2, net)
    offer(net, 1, 2)
    apart(net, 0.01, 0.2)
    strict = FakeBackend("x", words=[], fails=InvalidParams("no", params=["tools"]))
    with liar.having(strict):
        with honest.having(FakeBackend("y", words=["yes"])):
            assert await text_of(node.router.generate(ask())) == "yes"
        with (
            honest.having(strict),
            pytest.raises(InvalidParams, match="no backend could answer: peer") as refused,
        ):
            await text_of(node.router.generate(ask()))
    assert refused.value.data == {"params": ["tools"]}  # programs read it
    await net.close()


async def test_all_busy_is_busy_and_mixed_failures_are_told_apart() -> None:
    node = make_node()
    busy = [FakeBackend(n, words=[], fails=Busy("Too many requests")) for n in "ab"]
    with node.having(*busy), pytest.raises(Busy, match="^Too many requests$"):
        await text_of(node.router.generate(ask()))
    later = FakeBackend("d", words=[], fails=Busy("too many calls", retry_after_s=40))
    with node.having(*busy, later), pytest.raises(Busy) as refused:
        await text_of(node.router.generate(ask()))
    assert refused.value.data["retry_after_s"] == 40  # whoever asks one again asks all
    broken = FakeBackend("c", words=[], fails=Unavailable("gone"))
    with (
        node.having(*busy, broken),
        pytest.raises(Unavailable, match=r"no backend could answer: a: Too many.*; b.*; c: gone"),
    ):
        await text_of(node.router.generate(ask()))


async def test_named_backend_answers_alone() -> None:
    node = make_node()
    first, second = FakeBackend("first"), FakeBackend("second")
    with node.having(first, second):
        await text_of(node.router.generate(ask(), backend="second"))
        with pytest.raises(NotFound, match="no backend 'third'; known backends: first, second"):
            await text_of(node.router.generate(ask(), backend="third"))
    assert first.requests == []


async def test_nearest_peer_is_asked_first_and_the_next_after_its_failure() -> None:
    net = MemoryNetwork()
    node, far, near = make_node(0, net), make_node(1, net), make_node(2, net)
    offer(net, 1, 2)
    apart(net, 0.2, 0.01)
    broken = FakeBackend("x", words=[], fails=Unavailable("out of memory"))
    answer = Answer()
    with far.having(FakeBackend("y", words=["far"])), near.having(broken):
        assert await text_of(node.router.generate(ask(), answer=answer)) == "far"
    assert net.opened == [node_id(2), node_id(1)]
    assert answer.backend == f"peer:{node_id(1)}"
    await net.close()


async def test_peer_that_failed_is_asked_last_for_a_while() -> None:
    net = MemoryNetwork()
    node, far, near = make_node(0, net), make_node(1, net), make_node(2, net)
    offer(net, 1, 2)
    apart(net, 0.2, 0.01)
    flaky = FakeBackend("x", words=[], fails=Unavailable("out of memory"))
    with far.having(FakeBackend("y")), near.having(flaky):
        await text_of(node.router.generate(ask()))
        await text_of(node.router.generate(ask()))
        assert net.opened == [node_id(2), node_id(1), node_id(1)]
        node.clock.now += 31
        await text_of(node.router.generate(ask()))
    assert net.opened[3:] == [node_id(2), node_id(1)]
    await net.close()


async def test_unmeasured_peers_are_pinged_when_there_is_a_choice() -> None:
    net = MemoryNetwork()
    node, slow, fast = make_node(0, net), make_node(1, net), make_node(2, net)
    offer(net, 1, 2)
    net.apart(node.id, slow.id, 0.5, measured=False)
    net.apart(node.id, fast.id, 0.01)
    with slow.having(FakeBackend("x")), fast.having(FakeBackend("y")):
        await text_of(node.router.generate(ask()))
    assert node.transport.pinged == [node_id(1)]
    assert net.opened == [node_id(2)]
    await net.close()


async def test_provider_that_is_not_connected_is_found_through_the_directory() -> None:
    net = MemoryNetwork()
    node, remote = make_node(0, net), make_node(1, net)
    node.directory.elsewhere = [
        Record("ait:cap:m", node_id(1), {"v": 1}, ("/ip4/127.0.0.1/tcp/1",))
    ]
    with remote.having(FakeBackend("x")):
        assert await text_of(node.router.generate(ask())) == "one two"
    await net.close()


async def test_local_backend_goes_before_peers() -> None:
    net = MemoryNetwork()
    node = make_node(0, net)
    make_node(1, net)
    offer(net, 1)
    with node.having(FakeBackend("a")):
        await text_of(node.router.generate(ask()))
    assert net.opened == []


async def test_named_peer_answers_or_its_name_is_refused() -> None:
    net = MemoryNetwork()
    node, remote = make_node(0, net), make_node(1, net)
    with remote.having(FakeBackend("x")):
        text = await text_of(node.router.generate(ask(), backend=f"peer:{node_id(1)}"))
    assert text == "one two"
    with pytest.raises(InvalidParams, match="backend peer:nonsense"):
        await text_of(node.router.generate(ask(), backend="peer:nonsense"))
    with pytest.raises(Unavailable, match="transport plugin is not running"):
        await text_of(make_node(alone=True).router.generate(ask(), backend="peer:x"))
    await net.close()


async def test_more_local_requests_than_may_wait_are_refused_at_once() -> None:
    node = make_node(max_local=1, max_waiting=0)
    backend = FakeBackend("a")
    backend.gate = asyncio.Event()
    with node.having(backend):
        async with aclosing(node.router.generate(ask())) as chunks:
            first = asyncio.ensure_future(anext(chunks))
            await backend.asked.wait()
            with pytest.raises(Busy, match="^Too many requests$"):
                await text_of(node.router.generate(ask()))
            backend.gate.set()
            assert (await first).text == "one "
    assert node.router.seats.used == 0


async def test_requests_beyond_the_limit_wait_their_turn() -> None:
    node = make_node(max_local=1, max_waiting=2)
    backend = FakeBackend("a")
    backend.gate = asyncio.Event()
    order: list[str] = []

    async def asked(name: str) -> None:
        order.append(await text_of(node.router.generate(ask())) and name)

    with node.having(backend):
        async with asyncio.TaskGroup() as group:
            group.create_task(asked("first"))
            await backend.asked.wait()
            group.create_task(asked("second"))
            gone = group.create_task(asked("gone"))
            await wait_for(lambda: node.router.seats.waiting == 2)
            assert node.router.metrics.queued == 2
            with pytest.raises(Busy, match="^Too many requests$"):
                await text_of(node.router.generate(ask()))
            gone.cancel()
            await wait_for(lambda: node.router.seats.waiting == 1)
            group.create_task(asked("third"))
            await wait_for(lambda: node.router.seats.waiting == 2)
            assert backend.running == 1
            backend.gate.set()
    assert order == ["first", "second", "third"]
    assert (node.router.seats.used, node.router.seats.waiting) == (0, 0)


async def test_a_seat_given_to_a_caller_that_leaves_goes_to_the_next() -> None:
    seats = Seats(1, most_waiting=2)

    async def sit() -> None:
        async with seats.taken():
            pass

    async with seats.taken():
        leaver, stayer = asyncio.create_task(sit()), asyncio.create_task(sit())
        await wait_for(lambda: seats.waiting == 2)
    leaver.cancel()  # it has the seat, and does not know it yet
    await stayer
    await asyncio.wait({leaver})
    assert leaver.cancelled()
    assert seats.used == 0


async def test_closing_the_answer_stops_the_backend() -> None:
    node = make_node()
    backend = FakeBackend("a", hangs=True)
    with node.having(backend):
        async with aclosing(node.router.generate(ask())) as chunks:
            await anext(chunks)
    assert backend.stopped.is_set()
    assert backend.running == 0
    ended = node.events[-1]
    assert isinstance(ended, GenerationEnded)
    assert (ended.reason, ended.backend) == ("cancelled", "a")


async def test_cancelling_a_waiting_answer_stops_the_backend() -> None:
    node = make_node()
    backend = FakeBackend("a", words=[], hangs=True)
    with node.having(backend):
        task = asyncio.create_task(text_of(node.router.generate(ask())))
        await backend.asked.wait()
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()
    assert backend.stopped.is_set()
    assert node.router.seats.used == 0


async def test_last_chunk_has_the_times_of_the_answer() -> None:
    node = make_node()

    class Slow(FakeBackend):
        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
            async for chunk in super().generate(request):
                node.clock.now += 2.0
                yield chunk

    with node.having(Slow("a", words=["a", "b", "c"])):
        *_, last = [chunk async for chunk in node.router.generate(ask())]
    assert last.extra == {"queue_s": 0.0, "first_token_s": 2.0, "rest_s": 4.0}


async def test_end_of_an_answer_is_published_with_its_figures() -> None:
    node = make_node()
    with node.having(FakeBackend("a")):
        await text_of(node.router.generate(ask()))
    assert node.events == [GenerationEnded("m", "a", "stop", 3, 2, 0.0, first_token_s=0.0)]


async def test_buggy_backend_does_not_hide_the_others() -> None:
    class Buggy(FakeBackend):
        async def models(self) -> list[Any]:
            raise KeyError("oops")

    node = make_node()
    with node.having(Buggy("bad"), FakeBackend("good")):
        assert [v.backend for v in await node.router.models()] == ["good"]
        assert node.catalogue.states["bad"].detail == "failed: KeyError; see the log"


async def test_models_list_local_ones_and_those_of_peers() -> None:
    net = MemoryNetwork()
    node = make_node(0, net)
    offer(net, 0, model="mine")
    offer(net, 1, model="theirs")
    net.records["ait:cap:bad", node_id(2)] = Record("ait:cap:bad", node_id(2), {"v": "x"})
    with node.having(FakeBackend("a")):
        views = await node.router.models()
    assert [(v.name, v.backend) for v in views] == [("m", "a"), ("theirs", f"peer:{node_id(1)}")]


async def test_of_several_asked_at_once_the_first_to_speak_answers() -> None:
    node = make_node()
    slow, quick = FakeBackend("slow"), FakeBackend("quick", words=["q"])
    slow.gate = asyncio.Event()
    answer = Answer()
    with node.having(slow, quick):
        text = await text_of(node.router.generate(ask(), parallel=2, answer=answer))
    assert text == "q"
    assert answer.backend == "quick"
    assert slow.stopped.is_set()
    assert slow.running == 0


async def test_race_survives_a_failure_and_goes_on_after_all_failed() -> None:
    node = make_node()
    bad = [FakeBackend(n, words=[], fails=Unavailable(f"{n} is gone")) for n in ("b1", "b2")]
    with node.having(bad[0], FakeBackend("good")):
        assert await text_of(node.router.generate(ask(), parallel=2)) == "one two"
    with node.having(*bad, FakeBackend("good")):
        assert await text_of(node.router.generate(ask(), parallel=2)) == "one two"


async def test_winner_of_a_race_that_breaks_off_is_an_error() -> None:
    node = make_node()
    slow = FakeBackend("slow")
    slow.gate = asyncio.Event()
    with (
        node.having(FakeBackend("a", fails=Unavailable("lost")), slow),
        pytest.raises(AitorrentError, match="lost"),
    ):
        await text_of(node.router.generate(ask(), parallel=2))
    assert slow.stopped.is_set()


async def test_closing_a_race_stops_every_backend() -> None:
    node = make_node()
    one, two = FakeBackend("one", hangs=True), FakeBackend("two", hangs=True)
    with node.having(one, two):
        async with aclosing(node.router.generate(ask(), parallel=2)) as chunks:
            await anext(chunks)
    assert (one.running, two.running) == (0, 0)


async def test_discover_asks_only_peers_that_the_directory_knows() -> None:
    net = MemoryNetwork()
    node = make_node(0, net, nodes=(f"/ip4/127.0.0.1/tcp/1/p2p/{node_id(1)}", "fixed.example:1"))
    node.catalogue.fixed["fixed.example:1"] = node_id(2)
    there = [make_node(n, net) for n in (1, 2, 3)]
    offer(net, 1, 2, 3)
    ours = FakeBackend("ours", ["m"])
    with ExitStack() as stack:
        stack.enter_context(node.having(ours))
        for other in there:
            stack.enter_context(other.having(FakeBackend("a", ["m"])))
        answer = Answer()
        await text_of(node.router.generate(ask(), discover=True, answer=answer))
    assert answer.backend == f"peer:{node_id(3)}"
    assert net.opened == [node_id(3)]
    assert ours.requests == []
    await net.close()


async def test_discover_without_a_model_takes_one_that_a_peer_offers() -> None:
    net = MemoryNetwork()
    node, other = make_node(0, net), make_node(1, net)
    offer(net, 1, model="theirs")
    with node.having(FakeBackend("a", ["ours"])), other.having(FakeBackend("a", ["theirs"])):
        answer = Answer()
        await text_of(node.router.generate(ask(""), discover=True, answer=answer))
    assert answer.model == "theirs"
    await net.close()


async def test_discover_looks_further_than_what_is_known_and_says_when_nobody_is_there() -> None:
    net = MemoryNetwork()
    node, other = make_node(0, net), make_node(1, net)
    key = "ait:cap:far"
    node.directory.elsewhere.append(Record(key, node_id(1), {"v": 1, "model": "far"}))
    with node.having(FakeBackend("a", ["m"])), other.having(FakeBackend("a", ["far"])):
        await text_of(node.router.generate(ask("far"), discover=True))
        with pytest.raises(NotFound, match="the directory lists no peer with model 'm'"):
            await text_of(node.router.generate(ask("m"), discover=True))
        with pytest.raises(Unavailable, match="the directory lists no peer that answers"):
            await text_of(node.router.generate(ask(""), discover=True))
    await net.close()
