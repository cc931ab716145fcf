"""The start order of plugins: an acyclic graph of what they require and want.

Pure functions over names. Plugins in a cycle of requirements can never start, so they are reported.
A cycle that includes a wish is broken there, because a wish may stay unfulfilled.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Plan:
    """Which plugin starts after which."""

    after: Mapping[str, frozenset[str]]
    "For each plugin, those that start before it and stop after it; acyclic."
    loops: Mapping[str, str]
    "Plugins that cannot start, each with its cycle: `a needs b needs a`."
    opened: tuple[str, ...]
    "Wishes dropped because they closed a cycle: `a wants b wants a`."


def plan(requires: Mapping[str, AbstractSet[str]], wants: Mapping[str, AbstractSet[str]]) -> Plan:
    """The plan for plugins, given which plugins meet their requirements and wishes.

    Both mappings have the same keys; names that are not keys are ignored.
    """
    hard = {name: {n for n in needs if n in requires} for name, needs in requires.items()}
    soft = {name: {n for n in wants[name] if n in requires} - hard[name] for name in requires}
    loops: dict[str, str] = {}
    opened: list[str] = []
    while (cycle := _cycle({n: hard[n] | soft[n] for n in hard if n not in loops})) is not None:
        wishes = [(a, b) for a, b in pairwise(cycle) if b in soft[a]]
        if wishes:
            soft[wishes[0][0]].discard(wishes[0][1])
            opened.append(" wants ".join(cycle))
            continue
        text = " needs ".join(cycle)
        loops.update(dict.fromkeys(cycle, text))
    after = {name: frozenset(hard[name] | soft[name]) for name in hard if name not in loops}
    return Plan(after, loops, tuple(opened))


def _cycle(graph: Mapping[str, AbstractSet[str]]) -> list[str] | None:
    """One cycle as `[a, b, a]`, each depending on the next; None if there is none."""
    known = {name: {n for n in needs if n in graph} for name, needs in graph.items()}
    try:
        TopologicalSorter(known).prepare()
    except CycleError as e:
        # graphlib lists each node before the one that depends on it
        return list(reversed(e.args[1]))
    return None
