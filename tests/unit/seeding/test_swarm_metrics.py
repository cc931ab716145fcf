"""Bytes of swarms: libtorrent's counts begin again, ours do not."""

from __future__ import annotations

from types import SimpleNamespace

from aitorrent_seeding.metrics import SwarmMetrics
from aitorrent_seeding.session.torrent import Torrent
from aitorrentd.api.monitoring.exposition import text_of
from tests.support.scraping import Scrape


def status(received: int, sent: int) -> SimpleNamespace:
    return SimpleNamespace(total_payload_download=received, total_payload_upload=sent)


def test_bytes_never_fall_when_a_torrent_is_paused_or_removed() -> None:
    metrics = SwarmMetrics()
    first, second = Torrent(None, 1), Torrent(None, 1)
    for torrent, received, sent in (
        (first, 100, 10),
        (first, 150, 10),
        (second, 7, 70),
        (first, 0, 0),  # paused: libtorrent counts from 0 again
        (first, 20, 5),
    ):
        metrics.moved(*torrent.moved(status(received, sent)))
    torrents = [SimpleNamespace(state=state) for state in ("seeding", "seeding", "paused")]
    shown = Scrape(text_of(metrics.read(torrents)))
    assert shown.of("aitorrent_swarm_bytes_total") == {
        '{direction="in"}': 177,
        '{direction="out"}': 85,
    }
    assert shown.of("aitorrent_torrents") == {'{state="seeding"}': 2, '{state="paused"}': 1}
    after_removal = Scrape(text_of(metrics.read([])))
    assert after_removal.of("aitorrent_swarm_bytes_total")['{direction="in"}'] == 177
