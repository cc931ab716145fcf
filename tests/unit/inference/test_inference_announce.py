"""What this node says in the directory, and when."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_inference.announce import Announcer
from aitorrent_inference.capabilities import Capability, offered, read_record, record_value
from aitorrentd.api import ModelView, NotFound, Record, TooLarge, Unavailable, pack
from tests.support.effort import examples
from tests.support.inference_fakes import FakeBackend, FakeRouter, make_node, node_id
from tests.support.transport.memory_directory import MemoryDirectory

log = logging.getLogger("test.announce")


def announcer(node: FakeRouter) -> Announcer:
    return Announcer(node.catalogue, directory=lambda: node.directory, log=log)


def said(node: FakeRouter) -> dict[str, Any]:
    return {key: record.value for (key, _), record in node.directory.records.items()}


async def test_models_of_local_backends_are_announced_and_withdrawn() -> None:
    node = make_node(capabilities={"mistral-q4": "mistral"})
    backend = FakeBackend("a", ["mistral", "other"])
    announcing = announcer(node)
    with node.having(backend):
        await announcing.refresh()
        mistral = {"v": 1, "model": "mistral", "family": "fake"}
        assert said(node) == {
            "ait:cap:mistral": mistral,
            "ait:cap:other": {"v": 1, "model": "other", "family": "fake"},
            "ait:cap:mistral-q4": mistral,
        }
        backend.model_names.remove("mistral")
        await announcing.refresh()
        assert list(said(node)) == ["ait:cap:other"]
        backend.down = Unavailable("off")
        await announcing.refresh()
        assert said(node) == {}


async def test_only_allowed_names_are_announced() -> None:
    node = make_node(announce=["b"])
    with node.having(FakeBackend("a", ["a", "b"])):
        await announcer(node).refresh()
    assert list(said(node)) == ["ait:cap:b"]
    silent = make_node(announce=False)
    with silent.having(FakeBackend("a", ["a", "b"])):
        await announcer(silent).refresh()
    assert said(silent) == {}


async def test_model_that_left_memory_is_not_offered_to_peers() -> None:
    class Resting(FakeBackend):
        rests = True

        async def models(self) -> list[ModelView]:
            return [ModelView("a", self.name, is_resting=self.rests), ModelView("b", self.name)]

    node, backend = make_node(capabilities={"alias": "a"}), Resting("f")
    announcing = announcer(node)
    with node.having(backend):
        await announcing.refresh()
        assert list(said(node)) == ["ait:cap:b"]
        with pytest.raises(NotFound, match="no model 'a' here"):
            await node.catalogue.offered_candidates("a")
        assert await node.catalogue.candidates("a", None)  # for this machine
        backend.rests = False
        await announcing.refresh()
        assert sorted(said(node)) == ["ait:cap:a", "ait:cap:alias", "ait:cap:b"]


async def test_models_of_peers_are_not_announced_as_own() -> None:
    node = make_node()
    node.directory.records["ait:cap:x", node_id(1)] = Record("ait:cap:x", node_id(1), {"v": 1})
    await announcer(node).refresh()
    assert [peer for _, peer in node.directory.records] == [node_id(1)]


async def test_unchanged_record_is_not_said_again() -> None:
    node = make_node()
    announcing = announcer(node)
    with node.having(FakeBackend("a")):
        await announcing.refresh()
        node.directory.records.clear()
        await announcing.refresh()
    assert said(node) == {}


async def test_all_is_withdrawn_at_the_end_and_said_again_to_a_new_directory() -> None:
    node = make_node()
    announcing = announcer(node)
    with node.having(FakeBackend("a")):
        await announcing.refresh()
        announcing.withdraw()
        assert said(node) == {}
        await announcing.refresh()
        assert list(said(node)) == ["ait:cap:m"]
        node.directory = make_node(0).directory
        await announcing.refresh()
        assert list(said(node)) == ["ait:cap:m"]


async def test_refused_record_is_a_warning_once_and_hides_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Picky(MemoryDirectory):
        def publish(self, key: str, value: Mapping[str, Any]) -> None:
            if key == "ait:cap:bad":
                raise TooLarge("the record is too large")
            super().publish(key, value)

    node = make_node()
    node.directory = Picky(node.id, node.directory.records)
    announcing = announcer(node)
    with node.having(FakeBackend("a", ["bad", "good"])):
        await announcing.refresh()
        await announcing.refresh()
    assert list(said(node)) == ["ait:cap:good"]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "cannot announce bad: the record is too large"
    ]


def test_first_view_of_a_name_wins_and_a_name_of_a_missing_model_is_not_offered() -> None:
    views = [ModelView("m", "a"), ModelView("m", "b")]
    assert offered(views, announce=True, aliases={"x": "m", "y": "gone", "m": "m"}) == {
        "m": views[0],
        "x": views[0],
    }


def test_longest_record_fits_the_directory() -> None:
    view = ModelView("m" * 256, "x", 2**62, "f" * 100, 2**30)
    assert len(pack(record_value(view))) < 4096


values = st.dictionaries(
    st.sampled_from([*Capability.model_fields, "x"]),
    st.none() | st.integers() | st.floats() | st.text(max_size=300) | st.lists(st.text()),
)


@settings(max_examples=examples(150))
@given(st.text(max_size=300).map(lambda t: "ait:cap:" + t) | st.text(max_size=20), values)
def test_any_record_is_a_model_or_nothing(key: str, value: dict[str, Any]) -> None:
    view = read_record(Record(key, node_id(1), value))
    if view is not None:
        assert view.name == key.removeprefix("ait:cap:")
        assert view.name.isprintable()
        assert view.family.isprintable()
        assert view.backend == f"peer:{node_id(1)}"
