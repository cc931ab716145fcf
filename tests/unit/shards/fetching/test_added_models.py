"""Models that commands add: kept over restarts, fetched again and again, and told to peers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aitorrent_shards.config import ModelEntry
from aitorrent_shards.methods_models import RemoveParams
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Conflict,
    Denied,
    InvalidParams,
    NotFound,
    Unavailable,
)
from aitorrentd.api.models.weights import WEIGHTS
from tests.support.shards.adding import SOURCE, Call, Site, add, method, rows, running, site_in
from tests.support.shards.shards_fakes import until


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_in(tmp_path) as site:
        yield site


async def test_added_model_is_served_and_comes_back_without_its_origin(site: Site) -> None:
    call = Call()
    async with running(node := site.node(1)):
        added = await add(node, call, layers="0-2")
        assert (added.state, added.problem) == ("ready", "")
        (row,) = rows(node)
        assert (row.source, row.is_added, row.layers) == (SOURCE, True, "0-2")
        assert [(s.start, s.end) for s in node.shards.spans()] == [(0, 2)]
        fetched = node.services[WEIGHTS].fetched_bytes
        small = sum(f.size for name, f in site.origin.model.files if name.endswith(".json"))
        assert fetched - small < 3 * 1000 + 1000 + 4 * 100  # two layers, embedding, header, edges
    site.origin.problem = Unavailable("the origin is down")
    async with running(again := site.node(1)):
        await until(again.ready)
        assert rows(again)[0].digest == added.digest
        assert again.services[WEIGHTS].fetched_bytes < fetched


async def test_three_nodes_hold_a_model_and_a_fourth_takes_over_by_digest(site: Site) -> None:
    async with running(*(nodes := [site.node(n) for n in range(3)])):
        for node, layers in zip(nodes, ("0-2", "2-4", "4-6"), strict=True):
            added = await add(node, layers=layers)
        site.origin.problem = Unavailable("the origin is down")
        async with running(fourth := site.node(3)):
            taken = await add(fourth, source=added.digest, layers="2-4")
            assert (taken.state, taken.digest) == ("ready", added.digest)
            nodes[1].kill()
            spans = {(s.start, s.end) for s in fourth.shards.spans() if s.peer != nodes[1].id}
            assert spans == {(0, 2), (2, 4), (4, 6)}


@pytest.mark.parametrize(
    "problem", [Unavailable("the origin is down"), Busy("too many requests"), NotFound("no rev")]
)
async def test_fetch_that_fails_is_tried_again(site: Site, problem: AitorrentError) -> None:
    site.origin.problem = problem
    async with running(node := site.node(1)):
        added = await add(node, wait=False)
        assert added.state == "fetching"
        await until(lambda: rows(node)[0].problem)
        assert rows(node)[0].problem == f"{problem.message}; trying again"
        assert rows(node)[0].state == "fetching"
        site.origin.problem = None
        await until(node.ready, 10)
        assert rows(node)[0].problem == ""


async def test_gated_model_is_an_error_at_once(site: Site) -> None:
    site.origin.problem = Denied("org/toy is gated; a token is needed")
    async with running(node := site.node(1)):
        with pytest.raises(Unavailable, match="was added, but cannot be used: org/toy is gated"):
            await add(node)
        assert rows(node)[0].state == "failed"


async def test_without_seeding_the_model_says_what_is_missing(site: Site) -> None:
    node = site.node(1)
    del node.services[WEIGHTS]
    async with running(node):
        await add(node, wait=False)
        await until(lambda: rows(node)[0].problem)
        assert "weights.v1" in rows(node)[0].problem


async def test_removed_model_is_gone_for_good(site: Site) -> None:
    async with running(node := site.node(1)):
        await add(node)
        folder = node.shards.models["toy"].folder
        assert folder.is_dir()
        offered = node.services[WEIGHTS].offered
        assert {path.name for path in offered.values()} == {"config.json", "tokenizer.json"}
        remove = method(node.shards, "shards.remove_model")
        assert (await remove(Call(), RemoveParams(name="toy"))).name == "toy"
        assert rows(node) == [] and not node.shards.spans() and not folder.exists()
        assert node.services[WEIGHTS].released > 0 and not offered
        with pytest.raises(NotFound, match="there is no model toy; this node has: none"):
            await remove(Call(), RemoveParams(name="toy"))
        assert (await add(node)).state == "ready"
        await remove(Call(), RemoveParams(name="toy"))
    async with running(again := site.node(1)):
        assert rows(again) == []


async def test_what_cannot_be_added_or_removed_is_explained(site: Site) -> None:
    entry = {"name": "own", "path": str(site.whole), "layers": "none"}
    async with running(node := site.node(1, models=[entry])):
        with pytest.raises(Conflict, match="there is a model own already"):
            await add(node, name="own")
        with pytest.raises(InvalidParams, match="source: 'toy' is not a source"):
            await add(node, source="toy")
        with pytest.raises(InvalidParams, match="'4-2' is not a range of layers"):
            await add(node, layers="4-2")
        with pytest.raises(InvalidParams, match="dtype"):
            await add(node, dtype="int3")
        with pytest.raises(InvalidParams, match="in the configuration; remove it from"):
            remove = method(node.shards, "shards.remove_model")
            await remove(Call(), RemoveParams(name="own"))
        assert len(rows(node)) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'[{"name": 3}]', b"null", b"\xff" * 90])
async def test_damaged_list_is_set_aside_and_told(site: Site, damage: bytes) -> None:
    async with running(node := site.node(1)):
        await add(node)
    saved = node.data_dir / "added.json"
    saved.write_bytes(damage)
    async with running(again := site.node(1)):
        assert rows(again) == []
        (warning,) = again.shards.health()
        assert warning.code == "shards.added" and ".damaged" in warning.text
        assert (await add(again)).state == "ready"


async def test_model_of_the_configuration_may_have_a_source(site: Site) -> None:
    entry = ModelEntry.model_validate({"name": "toy", "source": SOURCE, "layers": "4-6"})
    async with running(node := site.node(1, models=[entry])):
        await until(node.ready)
        assert not rows(node)[0].is_added
        assert not (node.data_dir / "added.json").exists()
