"""Who adds a model is told what happens meanwhile, and when it gets nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aitorrentd.api import NotFound, Unavailable
from tests.support.shards.adding import SOURCE, Call, Site, add, rows, running, site_in
from tests.support.shards.shards_fakes import until


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_in(tmp_path) as site:
        yield site


@pytest.mark.slow
async def test_origin_that_is_down_is_told_with_each_attempt_and_then_what_to_do(
    site: Site,
) -> None:
    site.origin.problem = Unavailable("the Hub cannot be reached")
    call = Call()
    async with running(node := site.node(1)):
        with pytest.raises(Unavailable) as caught:
            await add(node, call, layers="0-2")
        assert caught.value.data == {"added": True}
        for part in (
            "model toy was added, but cannot be fetched now: the Hub cannot be reached",
            '"aitorrentctl model list"',
            '"aitorrentctl model remove toy"',
        ):
            assert part in caught.value.message
        texts = {text for text, _, _ in call.told}
        assert {f"attempt {n} failed" for n in range(1, 5)} <= {t.split(":")[0] for t in texts}
        (row,) = rows(node)
        assert (row.state, row.problem) == (
            "fetching",
            "the Hub cannot be reached; trying again",
        )
        (warning,) = node.shards.health()
        assert warning.text == f"model toy: {row.problem}"
        (pending,) = node.shards.backend.pending()
        assert pending.state == "loading" and "the Hub cannot be reached; trying" in pending.detail
        site.origin.problem = None
        await until(node.ready, 60)


async def test_steps_of_a_fetch_are_told(site: Site) -> None:
    async with running(node := site.node(1)):
        await add(node, layers="0-2")
        fetch = node.shards.models["toy"].fetch
        assert fetch is not None and fetch.step == "fetching weights"
    site.origin.problem = Unavailable("down")
    async with running(other := site.node(2)):
        await add(other, wait=False)
        await until(lambda: rows(other)[0].problem)
        fetch = other.shards.models["toy"].fetch
        assert fetch is not None and fetch.step == f"looking up {SOURCE}"


async def test_name_that_the_origin_does_not_know_is_an_error_and_adds_nothing(site: Site) -> None:
    site.origin.problem = NotFound("the Hub has no model org/toy")
    async with running(node := site.node(1)):
        with pytest.raises(NotFound, match="the Hub has no model org/toy; nothing was added"):
            await add(node)
        assert rows(node) == []
        site.origin.problem = None
        assert (await add(node)).state == "ready"


@pytest.mark.slow
async def test_digest_that_no_peer_has_stays_added(site: Site) -> None:
    async with running(node := site.node(1)):
        with pytest.raises(Unavailable, match="was added, but cannot be fetched now"):
            await add(node, source="ab" * 32)
        assert rows(node)[0].state == "fetching"
