"""What an answer needs from its coordinating node, and the model it runs on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.protocol.spans import Span
from aitorrent_shards.routing.failed_links import FailedLinks
from aitorrent_shards.routing.recent_refusals import RecentRefusals
from aitorrent_shards.serving.stage_server import StageServer
from aitorrentd.api import Clock, Directory, Event, Transport


@dataclass(frozen=True, slots=True)
class NodeServices:
    """Node services shared by all answers."""

    transport: Transport
    directory: Directory
    stage_server: StageServer
    config: ShardsConfig
    clock: Clock
    log: logging.Logger
    publish: Callable[[Event], None]
    links: FailedLinks
    refusals: RecentRefusals = field(default_factory=RecentRefusals)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one answer requires of its stages."""

    model: str
    layers: int
    vocab: int
    max_positions: int
    "Positions that each stage must have room for."
    prompt_positions: int
    "How many of them belong to the prompt."
    accepts: Callable[[Span], bool]
    "Whether a span belongs to exactly this model."
