"""What is said of models that cannot answer yet, and waiting for those that are loading."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from aitorrent_inference.methods import inference_methods
from aitorrent_inference.schemas import GenerateParams
from aitorrentd.api import (
    Chunk,
    End,
    GenerateRequest,
    HeldLayers,
    NoParams,
    NotFound,
    PendingModel,
    ShuttingDown,
    TimedOut,
    Unavailable,
)
from tests.support.inference_fakes import (
    LACKING,
    FakeBackend,
    FakeRouter,
    LoadingBackend,
    loading,
    make_node,
    node_id,
)
from tests.support.nodes import wait_for

pytestmark = pytest.mark.jump_clock


async def chunks(node: FakeRouter, model: str = "m", **options: Any) -> list[Chunk]:
    request = GenerateRequest(model=model, prompt="hello")
    return [chunk async for chunk in node.router.generate(request, **options)]


@pytest.mark.parametrize(
    ("pending", "told"),
    [
        ([loading()], {"retry_after_s": 5}),
        ([replace(loading(), missing=((3, 6),))], {"retry_after_s": 5, "layers": [[3, 6]]}),
        ([replace(loading(), missing=((3, 6),), shortage="nobody has 5")], {"layers": [[3, 6]]}),
        ([replace(loading(), is_fetching=True)], {}),
        ([loading(), replace(loading(), state="failed")], {}),
    ],
)
async def test_errors_say_when_a_model_that_is_loaded_can_be_asked_again(
    pending: list[PendingModel], told: dict[str, Any]
) -> None:
    node = make_node()
    with node.having(LoadingBackend("shards", *pending)), pytest.raises(Unavailable) as refused:
        await chunks(node)
    assert refused.value.data == told


@pytest.mark.parametrize("backend", [None, "shards"])
@pytest.mark.parametrize("model", ["m", ""])
async def test_model_that_is_loaded_soon_is_waited_for_and_answers(
    model: str, backend: str | None
) -> None:
    node = make_node()
    shards = LoadingBackend("shards", loading())
    shards.ready_after = 6
    with node.having(shards):
        found = await chunks(node, model, wait_s=30, backend=backend)
    notices = [c for c in found if c.notice]
    assert "".join(c.text for c in found) == "one two"
    assert {c.notice for c in notices} == {"model m is loading"}
    assert notices[0].extra == {"done_bytes": 30, "total_bytes": 100}


async def test_without_patience_the_error_comes_at_once_and_says_what_is_missing() -> None:
    node = make_node()
    with node.having(LoadingBackend("shards", loading()), FakeBackend("ollama", ["x", "y"])):
        text = r"^model m cannot answer now: layers 0-3 are loading here \(30%\);"
        with pytest.raises(Unavailable, match=text + " complete models: x, y$"):
            await chunks(node)


async def test_patience_ends_with_how_far_it_was() -> None:
    node = make_node()
    with node.having(LoadingBackend("shards", loading())):
        text = r"model m is not ready after 0\.05 s: layers 0-3 are loading.*; wait longer with"
        with pytest.raises(TimedOut, match=text):
            await chunks(node, wait_s=0.05)


async def test_nobody_waits_for_what_is_not_being_loaded() -> None:
    node = make_node()
    shards = LoadingBackend("shards", LACKING, loading("other"), models=["small"])
    with node.having(shards):
        text = (
            "model big cannot answer now: no reachable node holds layers 3-6 of big; complete mod"
        )
        for backend in (None, "shards"):
            with pytest.raises(Unavailable, match=text + "els: small"):
                await asyncio.wait_for(chunks(node, "big", wait_s=3600, backend=backend), 5)
        with pytest.raises(NotFound, match="no model 'zz'; available models: small"):
            await asyncio.wait_for(chunks(node, "zz", wait_s=3600), 5)


async def test_peer_that_loads_is_given_time_to_offer() -> None:
    node = make_node()
    teller = LoadingBackend("shards", loading(backend="peers"))
    late = FakeBackend("late", ["m"])
    with node.having(teller), ExitStack() as stack:

        async def offers_after_it_loaded() -> None:
            await wait_for(lambda: teller.looked > 2, every_s=0.001)
            teller.waiting = []
            looked = teller.looked
            # nobody loads it any more, and nobody offers it yet
            await wait_for(lambda: teller.looked > looked + 1, every_s=0.001)
            stack.enter_context(node.having(late))

        offering = asyncio.create_task(offers_after_it_loaded())
        found = await asyncio.wait_for(chunks(node, wait_s=60), 10)
        await offering
    assert "".join(c.text for c in found) == "one two"


async def test_loading_that_leads_nowhere_ends_soon_after_it() -> None:
    node = make_node()
    shards = LoadingBackend("shards", loading())
    with node.having(shards):
        asked = asyncio.create_task(chunks(node, wait_s=3600))
        await wait_for(lambda: shards.looked > 2, every_s=0.001)
        shards.waiting = []
        with pytest.raises(NotFound, match="no model 'm'"):
            await asyncio.wait_for(asked, 5)


async def test_node_that_drains_does_not_begin_to_wait() -> None:
    node = make_node()

    def refuse() -> Any:
        raise ShuttingDown("the node takes no new work")

    node.router._work = refuse
    with node.having(LoadingBackend("shards", loading())), pytest.raises(ShuttingDown):
        await asyncio.wait_for(chunks(node, wait_s=3600), 5)


async def test_backend_that_fails_to_tell_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LoadingBackend):
        def pending(self) -> Sequence[PendingModel]:
            raise ZeroDivisionError("a bug")

    node = make_node()
    with node.having(Broken("broken"), LoadingBackend("shards", LACKING)):
        assert node.catalogue.pending() == [LACKING]
    assert "backend broken failed to list" in caplog.text
    caplog.clear()


class Call:
    """Notes what a caller is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def progress(self, text: str, **state: Any) -> None:
        self.told.append((text, state))


async def test_methods_tell_progress_names_and_what_is_pending() -> None:
    node = make_node()
    held = HeldLayers(node.id, 0, 3, 77), HeldLayers(node_id(5), 3, 6)
    shards = LoadingBackend("shards", LACKING, loading(), models=["small"])
    shards.waiting[0] = PendingModel("big", "shards", "incomplete", "x", layers=held)
    methods = {
        m.name: m
        for m in inference_methods(node.router, clock=node.clock, node=node.id, node_name="ant")
    }
    with node.having(shards):
        reply: Any = await methods["inference.models"].handler(Call(), NoParams())  # type: ignore[arg-type, misc]
        assert [row["name"] for row in reply["models"]] == ["small"]
        assert [(p["name"], p["state"], p["done_bytes"]) for p in reply["pending"]] == [
            ("big", "incomplete", 0),
            ("m", "loading", 30),
        ]
        assert [row["rss_bytes"] for row in reply["pending"][0]["layers"]] == [77, None]
        assert reply["names"] == {node.id: "ant"}
        shards.ready_after = shards.looked + 3
        call = Call()
        params = GenerateParams(prompt="hi", model="m", wait_s=30)
        items = [i async for i in methods["inference.generate"].handler(call, params)]  # type: ignore[arg-type, union-attr]
    assert isinstance(items[-1], End)
    expected = ("model m is loading", {"done": 30, "total": 100, "unit": "B"})
    assert set(map(str, call.told)) == {str(expected)}
