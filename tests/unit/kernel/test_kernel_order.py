"""The order of plugins, for any graph of requirements and wishes."""

from __future__ import annotations

from graphlib import TopologicalSorter

from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrentd.kernel.order import plan
from tests.support.effort import examples

names = st.sampled_from("abcdefgh")
graphs = st.fixed_dictionaries({name: st.sets(names, max_size=4) for name in "abcdefgh"})


def test_loop_of_requirements_names_its_members_once_around() -> None:
    found = plan(
        {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, {n: set() for n in ("a", "b", "c", "d")}
    )
    assert set(found.loops) == {"a", "b", "c"}
    assert found.loops["a"].count(" needs ") == 3
    assert found.after == {"d": frozenset({"a"})}


def test_wish_gives_way_where_it_closes_a_loop() -> None:
    found = plan({"a": {"b"}, "b": set()}, {"a": set(), "b": {"a"}})
    assert found.after == {"a": frozenset({"b"}), "b": frozenset()}
    assert len(found.opened) == 1
    assert not found.loops


def test_plugin_that_requires_itself_is_a_loop() -> None:
    assert plan({"a": {"a"}}, {"a": set()}).loops == {"a": "a needs a"}


@settings(max_examples=examples(150))
@given(graphs, graphs)
def test_plan_has_no_loops_and_keeps_every_requirement(
    requires: dict[str, set[str]], wants: dict[str, set[str]]
) -> None:
    found = plan(requires, wants)
    TopologicalSorter({k: set(v) for k, v in found.after.items()}).prepare()
    assert set(found.after) | set(found.loops) == set(requires)
    for name, after in found.after.items():
        assert requires[name] <= after
        assert after <= requires[name] | wants[name]


@settings(max_examples=examples(150))
@given(graphs)
def test_wishes_alone_never_keep_anybody_from_starting(wants: dict[str, set[str]]) -> None:
    assert not plan({name: set() for name in wants}, wants).loops
