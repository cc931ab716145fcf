"""Configuration of seeding: `plugins.seeding` in aitorrent.yaml."""

from __future__ import annotations

from aitorrentd.api import PluginConfig


class SeedingConfig(PluginConfig):
    """What this node shares, and how fast."""
