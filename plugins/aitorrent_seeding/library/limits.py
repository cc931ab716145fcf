"""When a torrent was seeded enough."""

from __future__ import annotations

from aitorrent_seeding.config import SeedingConfig
from aitorrent_seeding.library.entry import Entry


def limit_reached(entry: Entry, config: SeedingConfig) -> str:
    """Which limit of ratio or time a torrent reached, of its own or of all; empty if none."""
    limits = entry.held.limits
    ratio = config.seed_ratio if limits.ratio is None else limits.ratio
    most_s = config.seed_time_s if limits.seed_s is None else limits.seed_s
    if ratio and entry.uploaded >= ratio * entry.meta.size:
        return f"sent {ratio:g} times its size"
    if most_s and entry.held.seeded_s + entry.seeded_s >= most_s:
        return f"seeded for {most_s:g} s"
    return ""
