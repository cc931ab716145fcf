"""Spans: which node holds which layers of which model, from directory records.

Records are untrusted; `parse_span` checks only their form. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_shards.protocol.messages import (
    DTYPE_BYTES,
    MAX_HIDDEN,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VERSION,
    VERSION,
    parse_addresses,
)
from aitorrentd.api import PeerId, ProtocolError, Record
from aitorrentd.api.fields import text, whole

PREFIX: Final = "ait:shard:"


@dataclass(frozen=True, slots=True)
class Span:
    """The layers [start, end) of a model, ready to compute at a node."""

    peer: PeerId
    model: str
    digest: str
    "Identifies the exact weights, configuration and tokenizer."
    front: str
    "Identifies only configuration and tokenizer, which a node without weights can check."
    start: int
    end: int
    layers: int
    dtype: str
    hidden: int
    max_positions: int
    free_positions: int
    "Positions for which cache memory is free now, over the whole span."
    step_us: int
    "Median time of one token through the whole span, in microseconds; 0 = not measured."
    run: int
    "Changes when the holder reloads."
    addresses: tuple[str, ...] = ()
    version: int = VERSION
    "Of the protocol that the holder speaks."

    @property
    def row_bytes(self) -> int:
        """Size of one position's hidden state, in bytes."""
        return self.hidden * DTYPE_BYTES[self.dtype]

    @property
    def kind(self) -> tuple[str, int, int, str]:
        """Spans of one kind can work together: same weights, layers, width and dtype."""
        return self.digest, self.layers, self.hidden, self.dtype

    def value(self) -> dict[str, Any]:
        """The span as a directory value."""
        return {
            "v": self.version,
            "model": self.model,
            "digest": self.digest,
            "front": self.front,
            "start": self.start,
            "end": self.end,
            "layers": self.layers,
            "dtype": self.dtype,
            "hidden": self.hidden,
            "max_positions": self.max_positions,
            "free_positions": self.free_positions,
            "step_us": self.step_us,
            "run": self.run,
        }


def parse_span(record: Record) -> Span:
    """The span that a directory record describes.

    Raises:
        ProtocolError: not a valid span, or published under another model's key.
    """
    value = record.value
    if not isinstance(value, Mapping):
        raise ProtocolError("a span must be a map")
    version = whole(value, "v", 1, MAX_VERSION)
    digest = text(value, "digest", 128)
    if record.key != PREFIX + digest:
        raise ProtocolError("the digest of a span must be that of its key")
    dtype = text(value, "dtype", 16)
    if dtype not in DTYPE_BYTES:
        raise ProtocolError(f"dtype must be one of {', '.join(DTYPE_BYTES)}")
    layers = whole(value, "layers", 1, MAX_LAYERS)
    start = whole(value, "start", 0, layers - 1)
    return Span(
        peer=record.peer,
        model=text(value, "model", 256),
        digest=digest,
        front=text(value, "front", 128),
        start=start,
        end=whole(value, "end", start + 1, layers),
        layers=layers,
        dtype=dtype,
        hidden=whole(value, "hidden", 1, MAX_HIDDEN),
        max_positions=whole(value, "max_positions", 1, MAX_POSITIONS),
        free_positions=whole(value, "free_positions", 0, 1 << 40),
        step_us=whole(value, "step_us", 0, 1 << 40),
        run=whole(value, "run", 0, 2**63),
        addresses=parse_addresses(record.addresses),
        version=version,
    )


def parse_spans(records: Iterable[Record]) -> list[Span]:
    """The valid spans among the records whose holders speak this node's version of the protocol."""
    return [span for span in _valid(records) if span.version == VERSION]


def other_versions(records: Iterable[Record]) -> list[Span]:
    """The spans among the records whose holders speak another version, as far as they have this
    version's form; such nodes are never asked."""
    return [span for span in _valid(records) if span.version != VERSION]


def _valid(records: Iterable[Record]) -> list[Span]:
    spans = []
    for record in records:
        try:
            spans.append(parse_span(record))
        except ProtocolError:
            continue  # one bad record must not hide the good ones
    return spans


def with_own(spans: Iterable[Span], own: Iterable[Span]) -> list[Span]:
    """`spans`, plus the spans of `own` that they lack, by peer and digest."""
    found = list(spans)
    there = {(s.peer, s.digest) for s in found}
    return found + [s for s in own if (s.peer, s.digest) not in there]


def alike(spans: Iterable[Span]) -> list[list[Span]]:
    """Spans grouped by kind; the group with most members comes first."""
    groups: dict[tuple[str, int, int, str], list[Span]] = {}
    for span in spans:
        groups.setdefault(span.kind, []).append(span)
    return [groups[k] for k in sorted(groups, key=lambda k: (-len(groups[k]), k))]


def gaps(spans: Iterable[Span], start: int, end: int) -> list[tuple[int, int]]:
    """The parts of the layers [start, end) that no span covers, in order."""
    missing, reached = [], start
    for span in sorted(spans, key=lambda s: s.start):
        if span.start >= end:
            break
        if span.start > reached:
            missing.append((reached, span.start))
        reached = max(reached, span.end)
    if reached < end:
        missing.append((reached, end))
    return missing
