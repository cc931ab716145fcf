"""Models as backends list them: those that can answer, and those that cannot yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class HeldLayers:
    """Layers of a model that a node has in memory."""

    peer: str
    start: int
    end: int
    "One past the last layer."
    rss_bytes: int | None = None
    "Resident memory of the process that holds them; known for this node only."
    vram_bytes: int | None = None
    "The weights in the memory of a graphics card; 0 on a CPU. Known for this node only."


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that a backend can answer with now."""

    name: str
    backend: str
    size_bytes: int | None = None
    family: str = ""
    context_length: int | None = None
    detail: str = ""
    "For display: quantisation, or which peers hold which layers."
    layers: tuple[HeldLayers, ...] = ()
    "Which node holds which layers, for a model spread over nodes."
    lacks: frozenset[str] = frozenset()
    "Features that the backend has (see KnowsFeatures), and this model has not."
    is_resting: bool = False
    """Whether layers of this node left its memory: a request of this machine loads them again, and
    peers are not offered the model."""
    leaves_s: float | None = None
    """Seconds until layers of this node leave its memory, unless somebody uses them; None = they
    stay."""


@dataclass(frozen=True, slots=True)
class PendingModel:
    """A model that a backend knows but cannot answer with yet."""

    name: str
    backend: str
    state: Literal["loading", "incomplete", "failed"]
    "`loading` becomes ready without user action; the others do not."
    detail: str
    "For display: what is missing, and why."
    done_bytes: int = 0
    "Bytes read so far, here and at peers."
    total_bytes: int = 0
    "Bytes to read; 0 while unknown."
    layers: tuple[HeldLayers, ...] = ()
    "Which nodes already hold which layers."
    missing: tuple[tuple[int, int], ...] = ()
    "Ranges of layers that no node holds; each end is exclusive."
    shortage: str = ""
    "Which layers nobody holds or loads, and who last held them; the part that peers may see."
    is_fetching: bool = False
    "Whether its files are still fetched from elsewhere, which may take hours."
