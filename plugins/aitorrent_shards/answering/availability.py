"""Why a model cannot answer now, and whether it soon can. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from aitorrent_shards.protocol.loading import Loading
from aitorrent_shards.protocol.spans import Span, alike, gaps
from aitorrent_shards.routing.failed_links import FailedLinks
from aitorrent_shards.routing.finder import links_problem, versions_problem
from aitorrent_shards.routing.planner import Leg, Reaches, reaches_all, route
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import HeldLayers, PeerId, PendingModel, Unavailable

BACKEND: Final = "shards"
ELSEWHERE: Final = "peers"
_UNDER_WAY: Final = ("fetching", "reading", "starting", "loading", "restarting")

_NO_PATH: Final = "its holders could not reach each other"

Who = Callable[[PeerId], str]
"The display name of a node."

LastHeld = Callable[[Callable[[Span], bool], Sequence[tuple[int, int]]], str]
"Who last offered layers in these ranges, of spans that satisfy the function; empty if unknown."


def last_held_by_nobody(accepts: Callable[[Span], bool], lost: Sequence[tuple[int, int]]) -> str:
    """No earlier holder is remembered."""
    return ""


def covering(
    model: LocalModel,
    spans: Iterable[Span],
    *,
    home: PeerId | None = None,
    reaches: Reaches = reaches_all,
) -> list[Span] | None:
    """A set of spans that together hold every layer of a model, or None.

    They include a route from `home` and back on which each node can reach the next.
    """
    found = _planned(model, spans, home, reaches, lambda peer: 0.0)
    return None if found is None else sorted(found[0], key=lambda s: (s.start, s.end, s.peer))


def likely_route(
    model: LocalModel,
    spans: Iterable[Span],
    *,
    home: PeerId,
    reaches: Reaches,
    rtt_us: Callable[[PeerId], float],
) -> tuple[Leg, ...]:
    """The stages that an answer by this model would probably have; empty if it cannot answer."""
    found = _planned(model, spans, home, reaches, rtt_us)
    return () if found is None else found[1]


def _planned(
    model: LocalModel,
    spans: Iterable[Span],
    home: PeerId | None,
    reaches: Reaches,
    rtt_us: Callable[[PeerId], float],
) -> tuple[list[Span], tuple[Leg, ...]] | None:
    """Spans of one kind that hold every layer, and a route through them."""
    if model.files is None:
        return None
    layers = model.files.layers
    for group in alike(s for s in spans if model.accepts(s) and s.layers == layers):
        path = route(group, 0, layers, rtt_us=rtt_us, reaches=reaches, before=home, after=home)
        if path is not None:
            return group, path
    return None


Memory = Callable[[Span], tuple[int | None, int | None]]
"The resident and the graphics memory of a span, in bytes; None = unknown."


def unknown_memory(span: Span) -> tuple[None, None]:
    """Neither is known."""
    return None, None


def held(spans: Iterable[Span], memory: Memory) -> tuple[HeldLayers, ...]:
    """The spans, formatted for display."""
    return tuple(HeldLayers(s.peer, s.start, s.end, *memory(s)) for s in spans)


def held_text(spans: Iterable[Span], who: Who) -> str:
    """`0-3 this node, 3-6 …vX4pQq7a "bee"`."""
    return ", ".join(f"{s.start}-{s.end} {who(s.peer)}" for s in spans)


def own_loading(model: LocalModel, node_id: PeerId) -> Loading | None:
    """This node's own status line for a model it is reading or loading."""
    if model.state not in _UNDER_WAY:
        return None
    holder = model.holder
    if holder is not None:
        done, total = holder.done_bytes, holder.total_bytes
        return Loading(node_id, model.entry.name, holder.start, holder.end, done, total)
    done, total = model.amount
    return Loading(node_id, model.entry.name, *model.wanted(), done, total)


def pending(
    model: LocalModel,
    spans: Sequence[Span],
    loading: Sequence[Loading],
    *,
    node_id: PeerId,
    who: Who,
    links: FailedLinks,
    now: float,
    memory: Memory = unknown_memory,
    other_versions: Sequence[Span] = (),
    last_holders: LastHeld = last_held_by_nobody,
) -> PendingModel | None:
    """What a configured model lacks; None when it can answer.

    `loading` holds the peers' records for exactly this model; `other_versions` are the spans of
    nodes that speak another version of the protocol.
    """

    def reaches(sender: PeerId, receiver: PeerId) -> bool:
        return links.last(sender, receiver) is None

    if covering(model, spans, home=node_id, reaches=reaches) is not None:
        return None
    name, own = model.entry.name, own_loading(model, node_id)
    try:
        files, _ = model.ready()
    except Unavailable as e:
        if own is None:
            return PendingModel(name, BACKEND, "failed", e.message)
        text = coming_text(replace(own, end=own.start), node_id, who, model.doing) + model.trouble
        return PendingModel(
            name=name,
            backend=BACKEND,
            state="loading",
            detail=text,
            is_fetching=model.state == "fetching",
            done_bytes=own.done_bytes,
            total_bytes=own.total_bytes,
        )
    layers = files.layers
    usable = [s for s in spans if model.accepts(s) and s.layers == layers]
    best = min(alike(usable), key=lambda g: _total(gaps(g, 0, layers)), default=[])
    best = sorted(best, key=lambda s: (s.start, s.end, s.peer))
    missing = gaps(best, 0, layers)
    there = {s.peer for s in usable}  # their loading records are out of date
    coming = [*([own] if own else []), *(c for c in loading if c.peer not in there)]
    lost = _without(missing, [(c.start, c.end) for c in coming])
    reasons = [f"this node cannot hold it: {model.problem}"] if model.problem else []
    reasons += [coming_text(c, node_id, who) for c in coming]
    if best and not missing and (path := route(best, 0, layers, rtt_us=lambda peer: 0.0)):
        stages = [(leg.span.peer, leg.start, leg.end) for leg in path]
        reasons.append(links_problem(stages, links, node_id, now, who) or _NO_PATH)
    holder = model.holder
    if holder is not None and holder.state == "failed":
        mine = (holder.start, holder.end)
        own_range = f"layers {holder.start}-{holder.end} of {name}"
        reasons.append(f"{own_range} cannot be loaded on this node: {holder.problem}")
        lost = _without(lost, [mine])
    shortage = ""
    if lost:
        shortage = f"no reachable node holds layers {_ranges(lost)} of {name}"
        if last := last_holders(model.accepts, lost):
            shortage += f", {last}"
        reasons.append(shortage)
        if older := versions_problem((s for s in other_versions if model.accepts(s)), who):
            reasons.append(older)
    if best:
        reasons.append(f"held are {held_text(best, who)}")
    done, total = progress(coming)
    return PendingModel(
        name=name,
        backend=BACKEND,
        state="loading" if own is not None or (coming and not lost) else "incomplete",
        detail="; ".join(reasons),
        done_bytes=done,
        total_bytes=total,
        layers=held(best, memory),
        missing=tuple(missing),
        shortage=shortage,
    )


def elsewhere(
    loading: Iterable[Loading], configured: Collection[str], who: Who, node_id: PeerId
) -> list[PendingModel]:
    """Models that peers are loading and that are not configured here: those peers may answer
    later."""
    by_name: dict[str, list[Loading]] = {}
    for each in loading:
        if each.model not in configured and each.peer != node_id:
            by_name.setdefault(each.model, []).append(each)
    found = []
    for name, coming in by_name.items():
        done, total = progress(coming)
        text = "; ".join(coming_text(c, node_id, who) for c in coming)
        # A peer that does not know yet which layers it will hold may fetch the files for hours.
        is_fetching = any(c.start == c.end for c in coming)
        found.append(
            PendingModel(*(name, ELSEWHERE, "loading", text, done, total), is_fetching=is_fetching)
        )
    return found


def progress(coming: Sequence[Loading]) -> tuple[int, int]:
    """Bytes read and bytes to read, summed; (0, 0) while any total is unknown."""
    if not all(c.total_bytes for c in coming):
        return 0, 0
    return sum(c.done_bytes for c in coming), sum(c.total_bytes for c in coming)


def coming_text(coming: Loading, node_id: PeerId, who: Who, doing: str = "read") -> str:
    """Which node is about to hold which layers; `doing` is what it does with the files if it is
    this one."""
    share = f" ({coming.done_bytes / coming.total_bytes:.0%})" if coming.total_bytes else ""
    where = "here" if coming.peer == node_id else f"by {who(coming.peer)}"
    if coming.start == coming.end and coming.peer != node_id:
        return f"it is being prepared {where}{share}"
    if coming.start == coming.end:
        return f"its files are being {doing} {where}{share}"
    return f"layers {coming.start}-{coming.end} are loading {where}{share}"


def _total(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in ranges)


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{start}-{end}" for start, end in ranges)


def _without(
    ranges: Sequence[tuple[int, int]], taken: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The parts of `ranges` that `taken` does not cover."""
    left = list(ranges)
    for start, end in taken:
        cut = [
            part
            for a, b in left
            for part in ((a, min(b, start)), (max(a, end), b))
            if part[0] < part[1]
        ]
        left = cut if start < end else left
    return left
