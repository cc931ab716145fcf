"""Finding holders for the layers of one answer, and remembering whom to avoid."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from aitorrent_shards.node_services import Demand, NodeServices
from aitorrent_shards.protocol.spans import PREFIX, Span, alike, gaps, parse_spans, with_own
from aitorrent_shards.routing.planner import Leg, route
from aitorrentd.api import PeerId, Unavailable

UNKNOWN_RTT_S: Final = 0.05
FIND_S: Final = 2.0


class HolderFinder:
    """Plans legs over the layers of a model out of the directory.

    The first legs fix the kind of spans (exact weights and dtype) for the rest of the answer.
    """

    def __init__(self, node: NodeServices, demand: Demand) -> None:
        self._transport, self._directory, self._clock = node.transport, node.directory, node.clock
        self._own = node.stage_server.spans
        "This node's spans count even while they are not in the directory."
        self._demand = demand
        self._kind: tuple[str, int, int, str] | None = None
        self._avoid: dict[tuple[PeerId, int], float] = {}

    def avoid(self, span: Span, seconds: float) -> None:
        """Leave this holder out for a while, unless it loads anew."""
        self._avoid[span.peer, span.run] = self._clock.monotonic() + seconds

    async def plan(
        self, holes: Sequence[tuple[int, int]], *, sticky: Collection[PeerId]
    ) -> list[Leg]:
        """Legs over the holes, from what is known here, else from what the network knows.

        Raises:
            Unavailable: layers that nobody reachable holds.
        """
        spans = with_own(parse_spans(self._directory.known(PREFIX)), self._own())
        if legs := self._route(spans, holes, sticky):
            return legs
        for digest in sorted({s.digest for s in spans if self._demand.accepts(s)}):
            records = await self._directory.find(PREFIX + digest, timeout_s=FIND_S)
            found = with_own(parse_spans(records), self._own())
            if legs := self._route(found, holes, sticky):
                return legs
        usable = self._usable(spans)
        missing = [gap for a, b in holes for gap in gaps(usable, a, b)] or list(holes)
        named = ", ".join(f"{a}-{b}" for a, b in missing)
        raise Unavailable(f"nobody reachable holds layers {named} of {self._demand.model}")

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

    def _rtt_us(self, peer: PeerId) -> float:
        if peer == self._transport.node_id:
            return 0.0
        view = self._transport.peer(peer)
        return 1e6 * (view.rtt_s if view and view.rtt_s is not None else UNKNOWN_RTT_S)

    def _route(
        self,
        spans: Sequence[Span],
        holes: Sequence[tuple[int, int]],
        sticky: Collection[PeerId],
    ) -> list[Leg]:
        """Legs over all holes by spans of one kind, or none."""
        for group in alike(self._usable(spans)):
            routes = [
                route(
                    group,
                    start,
                    end,
                    rtt_us=self._rtt_us,
                    need_positions=self._demand.max_positions,
                    sticky=sticky,
                )
                for start, end in holes
            ]
            if all(routes):
                self._kind = group[0].kind
                return [leg for legs in routes if legs for leg in legs]
        return []
