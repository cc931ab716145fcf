"""The configuration as settings of libtorrent's session."""

from __future__ import annotations

from typing import Any

from aitorrent_seeding.config import SeedingConfig
from aitorrent_seeding.session import alerts, profiles, serving


def session_settings(config: SeedingConfig) -> dict[str, Any]:
    """A settings pack."""
    chosen = profiles.settings(
        config.profile,
        listen=config.listen,
        port=config.port,
        connections=config.connections,
        upload_bps=config.upload_limit,
        download_bps=config.download_limit,
        dht=config.dht,
        alert_mask=alerts.MASK,
    )
    return {**chosen, **serving.at_start(config.upload_limit)}
