"""Finds holders for the layers of one answer, and remembers which to avoid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

from aitorrent_shards.node_services import Demand, NodeServices
from aitorrent_shards.protocol.messages import VERSION
from aitorrent_shards.protocol.spans import (
    PREFIX,
    Span,
    alike,
    gaps,
    other_versions,
    parse_spans,
    with_own,
)
from aitorrent_shards.routing.failed_links import FailedLinks
from aitorrent_shards.routing.planner import Leg, Reaches, reaches_all, route
from aitorrentd.api import AitorrentError, InvalidParams, PeerId, Transport, Unavailable, called

UNKNOWN_RTT_S: Final = 0.05
FIND_S: Final = 2.0
MAX_NAMED: Final = 4
"Nodes that a message names."


def rtt_us(transport: Transport, peer: PeerId) -> float:
    """Microseconds of a round trip to a peer, or a guess while unknown."""
    if peer == transport.node_id:
        return 0.0
    view = transport.peer(peer)
    return 1e6 * (view.rtt_s if view and view.rtt_s is not None else UNKNOWN_RTT_S)


class LinksFailed(Unavailable):
    """The layers have holders, but these could not reach each other when tried."""


def links_problem(
    path: Iterable[tuple[PeerId, int, int]],
    links: FailedLinks,
    home: PeerId,
    now: float,
    who: Callable[[PeerId], str],
) -> str:
    """The adjacent nodes in a path over all layers that could not reach each other; empty if none.

    `path` lists (node, first layer, end); `home` sends to the first and takes from the last.
    """
    stages = sorted(path, key=lambda stage: stage[1])
    named = [(peer, f"{who(peer)} (layers {start}-{end})") for peer, start, end in stages]
    ends = [(home, who(home))]
    problems = []
    for (sender, who_sends), (receiver, who_takes) in pairwise([*ends, *named, *ends]):
        if (failed := links.last(sender, receiver)) is not None:
            ago_s = now - failed.tried_at
            problems.append(
                f"{who_sends} cannot reach {who_takes}: {failed.cause} (tried {ago_s:.0f} s ago)"
            )
    return "; ".join(problems)


def versions_problem(spans: Iterable[Span], who: Callable[[PeerId], str]) -> str:
    """Which nodes hold layers but speak another version of the protocol; empty if none."""
    return "; ".join(
        f"{who(s.peer)} holds layers {s.start}-{s.end} but speaks version {s.version} of the shards"
        f" protocol, this node speaks {VERSION}: update the older one"
        for s in sorted(spans, key=lambda s: (s.start, s.peer))[:MAX_NAMED]
    )


class HolderFinder:
    """Plans legs over the layers of a model from the directory.

    The first legs fix the kind of spans (exact weights and dtype) for the rest of the answer.
    """

    def __init__(self, node: NodeServices, demand: Demand) -> None:
        self._transport, self._directory, self._clock = node.transport, node.directory, node.clock
        self._own = node.stage_server.spans
        "This node's spans count even while they are not in the directory."
        self._demand, self._links = demand, node.links
        self._kind: tuple[str, int, int, str] | None = None
        self._avoid: dict[tuple[PeerId, int], float] = {}

    def avoid(self, span: Span, seconds: float) -> None:
        """Avoid this holder for a while, unless it reloads."""
        self._avoid[span.peer, span.run] = self._clock.monotonic() + seconds

    async def plan(
        self,
        holes: Sequence[tuple[int, int]],
        *,
        stages: Sequence[tuple[PeerId, int, int]] = (),
    ) -> list[Leg]:
        """Legs over the holes, from locally known spans, else from a network lookup.

        `stages` are the existing ones: (node, first layer, end).

        Raises:
            LinksFailed: holders that cannot reach each other. InvalidParams: the holders take fewer
            positions. Unavailable: layers without a reachable holder.
        """
        spans = with_own(parse_spans(self._directory.known(PREFIX)), self._own())
        if legs := self._connected(spans, holes, stages):
            return legs
        for digest in sorted({s.digest for s in spans if self._demand.accepts(s)}):
            records = await self._directory.find(PREFIX + digest, timeout_s=FIND_S)
            found = with_own(parse_spans(records), self._own())
            if legs := self._connected(found, holes, stages):
                return legs
        raise self._problem(spans, holes, stages)

    def _connected(
        self,
        spans: Sequence[Span],
        holes: Sequence[tuple[int, int]],
        stages: Sequence[tuple[PeerId, int, int]],
    ) -> list[Leg]:
        """Legs whose links work, else legs whose links may work again, else none."""
        for reaches in (self._never_failed, self._may_work):
            if legs := self._route(spans, holes, stages, reaches):
                self._kind = legs[0].span.kind
                return legs
        return []

    def _problem(
        self,
        spans: Sequence[Span],
        holes: Sequence[tuple[int, int]],
        stages: Sequence[tuple[PeerId, int, int]],
    ) -> AitorrentError:
        """Why there is no plan."""
        demand, home = self._demand, self._transport.node_id
        if legs := self._route(spans, holes, stages, reaches_all):
            path = [(leg.span.peer, leg.start, leg.end) for leg in legs]
            problem = links_problem([*path, *stages], self._links, home, self._now(), self._who)
            if problem:
                return LinksFailed(f"{demand.model} cannot be computed: {problem}")
        usable = self._usable(spans)
        missing = [gap for a, b in holes for gap in gaps(usable, a, b)] or list(holes)
        short = [s for s in spans if demand.accepts(s) and s.max_positions < demand.max_positions]
        if short and not any(gaps([*usable, *short], a, b) for a, b in missing):
            most = min(s.max_positions for s in short)
            return InvalidParams(
                f"the answer needs {demand.max_positions} positions, and holders of"
                f" {demand.model} take {most}; shorten the prompt or lower max_tokens",
                max_positions=most,
            )
        named = ", ".join(f"{a}-{b}" for a, b in missing)
        text = f"no reachable node holds layers {named} of {demand.model}"
        others = other_versions(self._directory.known(PREFIX))
        older = versions_problem((s for s in others if demand.accepts(s)), self._who)
        layers = [list(gap) for gap in missing]
        return Unavailable(f"{text}; {older}" if older else text, layers=layers)

    def _now(self) -> float:
        return self._clock.monotonic()

    def _never_failed(self, sender: PeerId, receiver: PeerId) -> bool:
        return self._links.last(sender, receiver) is None

    def _may_work(self, sender: PeerId, receiver: PeerId) -> bool:
        return self._links.find(sender, receiver, self._now()) is None

    def _who(self, peer: PeerId) -> str:
        if peer == self._transport.node_id:
            return "this node"
        view = self._transport.peer(peer)
        return called(peer, view.name if view is not None else "")

    def _usable(self, spans: Sequence[Span]) -> list[Span]:
        now = self._clock.monotonic()
        return [
            s
            for s in spans
            if self._demand.accepts(s)
            and s.layers == self._demand.layers
            and s.max_positions >= self._demand.max_positions
            and self._avoid.get((s.peer, s.run), 0.0) <= now
            and (self._kind is None or self._kind == s.kind)
        ]

    def _route(
        self,
        spans: Sequence[Span],
        holes: Sequence[tuple[int, int]],
        stages: Sequence[tuple[PeerId, int, int]],
        reaches: Reaches,
    ) -> list[Leg]:
        """Legs over all holes by spans of one kind, or none."""
        home = self._transport.node_id
        senders = {end: peer for peer, _, end in stages}
        receivers = {start: peer for peer, start, _ in stages}
        for group in alike(self._usable(spans)):
            routes = [
                route(
                    group,
                    start,
                    end,
                    rtt_us=partial(rtt_us, self._transport),
                    need_positions=self._demand.max_positions,
                    sticky={peer for peer, _, _ in stages},
                    reaches=reaches,
                    before=senders.get(start, home),
                    after=receivers.get(end, home),
                )
                for start, end in holes
            ]
            if all(routes):
                return [leg for legs in routes if legs for leg in legs]
        return []
