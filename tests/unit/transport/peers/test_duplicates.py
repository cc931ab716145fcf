from __future__ import annotations

from aitorrent_transport.peers.duplicates import MAX_SIGHTINGS, RECENT_S, Duplicates, Sighting
from aitorrentd.api import PeerId

HUB, COPY = PeerId("12D3KooWhubhubhu"), PeerId("12D3KooWcopycopy")


def sighting(at: float, reporter: PeerId | None = None) -> Sighting:
    return Sighting(COPY, "/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/2", reporter, at)


def test_sighting_is_news_once_until_it_was_over_for_a_while() -> None:
    seen = Duplicates()
    assert seen.note(sighting(0.0))
    assert not seen.note(sighting(60.0))
    assert [s.at for s in seen.current(600.0)] == [60.0]
    assert seen.current(61.0 + RECENT_S) == []
    assert seen.note(sighting(62.0 + RECENT_S))


def test_sighting_names_both_places_and_who_says_so() -> None:
    assert sighting(0.0).text == (
        "two nodes use the key of …copycopy: /ip4/192.0.2.1/tcp/1 and /ip4/192.0.2.2/tcp/2"
    )
    assert sighting(0.0, HUB).text.startswith(
        "another node uses this node's key: …hubhubhu is connected to /ip4/192.0.2.1/tcp/1"
    )


def test_peers_that_claim_much_cost_bounded_memory() -> None:
    seen = Duplicates()
    for i in range(1000):
        seen.note(sighting(float(i), PeerId(f"12D3KooW{i}")))
    assert len(seen.current(1000.0)) == MAX_SIGHTINGS
