"""One directory out of several sources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from aitorrentd.api import Conflict, PeerId, Record, Unavailable
from aitorrentd.api.network.directory import MAX_ADDRESSES, MergedDirectory

A, B = PeerId("a"), PeerId("b")


class Source:
    """A directory in memory; what `find` alone gives is in `far`."""

    def __init__(self, *near: Record, far: Sequence[Record] = ()) -> None:
        self.near, self.far = near, far
        self.said: dict[str, Mapping[str, Any]] = {}
        self.error: Exception | None = None
        self.asked = asyncio.Event()
        self.may_answer: asyncio.Event | None = None

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        self.said[key] = value

    def withdraw(self, key: str) -> None:
        self.said.pop(key, None)

    def known(self, prefix: str) -> Sequence[Record]:
        return [record for record in self.near if record.key.startswith(prefix)]

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        self.asked.set()
        if self.may_answer is not None:
            await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [record for record in (*self.near, *self.far) if record.key == key]


def record(key: str, peer: PeerId, value: int = 0, *addresses: str) -> Record:
    return Record(key, peer, {"v": value}, addresses)


@pytest.fixture
def directory() -> MergedDirectory:
    return MergedDirectory(logging.getLogger("test.directory"))


async def test_finds_and_knows_what_any_source_has(directory: MergedDirectory) -> None:
    near = Source(record("k", A), record("other", A))
    far = Source(record("k2", B), far=[record("k", B)])
    with directory.sources.added("near", near), directory.sources.added("far", far):
        assert await directory.find("k") == [record("k", A), record("k", B)]
        assert directory.known("k") == [record("k", A), record("k2", B)]
    assert await directory.find("k") == directory.known("") == []


async def test_a_node_has_one_record_with_the_addresses_of_all(directory: MergedDirectory) -> None:
    near = Source(record("k", A, 1, "x", "y"))
    many = tuple(str(n) for n in range(99))
    far = Source(record("k", A, 2, "y", "z", *many))
    with directory.sources.added("near", near), directory.sources.added("far", far):
        (found,) = await directory.find("k")
        assert [found] == directory.known("k")
    assert found.value == {"v": 1}
    assert found.addresses[:3] == ("x", "y", "z")
    assert len(found.addresses) == MAX_ADDRESSES


class Hearing(Source):
    """A source that takes records from the peers themselves."""

    def __init__(self, *near: Record) -> None:
        super().__init__(*near)
        self.synced: set[PeerId] = set()
        self.gone: set[PeerId] = set()

    def has_all_of(self, peer: PeerId) -> bool:
        return peer in self.synced

    def is_gone(self, peer: PeerId) -> bool:
        return peer in self.gone


async def test_a_connected_peer_knows_best_what_it_offers(directory: MergedDirectory) -> None:
    near = Hearing(record("k", A))
    far = Source(record("k", A, 0, "x"), record("k-withdrawn", A), record("k-other", B))
    with directory.sources.added("near", near), directory.sources.added("far", far):
        assert {r.key for r in directory.known("k")} == {"k", "k-withdrawn", "k-other"}
        near.synced.add(A)
        assert {r.key for r in directory.known("k")} == {"k", "k-other"}
        assert await directory.find("k-withdrawn") == []
        assert await directory.find("k") == [record("k", A, 0, "x")]


async def test_a_peer_that_is_gone_is_found_but_not_known(directory: MergedDirectory) -> None:
    near, far = Hearing(), Source(record("k", A), record("k", B))
    with directory.sources.added("near", near), directory.sources.added("far", far):
        near.gone.add(A)
        assert directory.known("k") == [record("k", B)]
        assert await directory.find("k") == [record("k", A), record("k", B)]
        near.gone.clear()
        assert directory.known("k") == [record("k", A), record("k", B)]


async def test_every_source_is_told_also_one_that_comes_later(directory: MergedDirectory) -> None:
    first, late = Source(), Source()
    with directory.sources.added("first", first):
        directory.publish("early", {"v": 1})
        directory.publish("gone", {"v": 1})
        directory.withdraw("gone")
        with directory.sources.added("late", late):
            assert late.said == first.said == {"early": {"v": 1}}
            directory.publish("early", {"v": 2})
            directory.publish("new", {"v": 3})
            assert late.said == first.said == {"early": {"v": 2}, "new": {"v": 3}}
            directory.withdraw("early")
            assert late.said == first.said == {"new": {"v": 3}}
        directory.withdraw("new")
        assert first.said == {}
        assert late.said == {"new": {"v": 3}}


async def test_sources_are_asked_at_the_same_time(directory: MergedDirectory) -> None:
    sources = [Source(record("k", A)), Source(record("k", B))]
    for source in sources:
        source.may_answer = asyncio.Event()
    with (
        directory.sources.added("one", sources[0]),
        directory.sources.added("other", sources[1]),
    ):
        finding = asyncio.ensure_future(directory.find("k"))
        for source in sources:
            await source.asked.wait()
        for source in sources:
            assert source.may_answer is not None
            source.may_answer.set()
        assert {r.peer for r in await finding} == {A, B}


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_source_that_fails_or_hangs_hides_no_other(
    directory: MergedDirectory, hangs: bool
) -> None:
    bad, good = Source(record("k", A), record("k2", A)), Source(record("k", B))
    if hangs:
        bad.may_answer = asyncio.Event()
    else:
        bad.error = Unavailable("no node of the network answers")
    with directory.sources.added("bad", bad), directory.sources.added("good", good):
        found = await directory.find("k", timeout_s=0.05 if hangs else 5.0)
    # what it knew before still counts
    assert found == [record("k", A), record("k", B)]


def test_two_sources_of_one_name_are_a_conflict(directory: MergedDirectory) -> None:
    with (
        directory.sources.added("dht", Source()),
        pytest.raises(Conflict, match="directory source 'dht' is already registered"),
        directory.sources.added("dht", Source()),
    ):
        pass
