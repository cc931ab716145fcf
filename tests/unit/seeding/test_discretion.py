"""Without a user's wish, no torrent is told of to a local network, a router or a public DHT."""

from __future__ import annotations

from pathlib import Path

import libtorrent as lt
import pytest

from aitorrent_seeding.config import SeedingConfig
from aitorrent_seeding.session import params
from aitorrent_seeding.session.profiles import Profile
from aitorrent_seeding.session.settings import session_settings


@pytest.mark.parametrize("profile", ["lan", "wan"])
def test_session_tells_nobody(profile: Profile) -> None:
    """libtorrent's own defaults would: they have all four on."""
    told = ("enable_lsd", "enable_upnp", "enable_natpmp", "enable_dht")
    default = lt.default_settings()
    chosen = session_settings(SeedingConfig(profile=profile))
    assert [default[name] for name in told] == [True] * 4
    assert [chosen[name] for name in told] == [False] * 4


def test_torrent_is_told_of_nowhere_even_if_the_session_would(tmp_path: Path) -> None:
    wanted = params.of_magnet("ab" * 20, tmp_path)
    flags = lt.torrent_flags
    assert wanted.flags & flags.disable_lsd
    assert wanted.flags & flags.disable_dht
    assert not params.of_magnet("ab" * 20, tmp_path, dht=True).flags & flags.disable_dht
