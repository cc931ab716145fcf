"""What went through the connections of a torrent, by samples and alerts in any order."""

from __future__ import annotations

from aitorrent_seeding.session.links import (
    KEEP_S,
    MOST_ENDED,
    NOBODY,
    Link,
    Links,
    PeerCounts,
    Sample,
    Totals,
)

OWN = (b"o" * 20,)
A, B = ("192.0.2.1", 6881), ("192.0.2.2", 6881)


def name_of(place: tuple[str, int]) -> bytes:
    return place[0].encode().ljust(20, b"-")


def sample(
    *peers: tuple[tuple[str, int], int, int], totals: tuple[int, int], failed: int = 0
) -> Sample:
    """Peers with the bytes that were received from and sent to them."""
    counts = tuple(PeerCounts(place, name_of(place), got, sent, 0) for place, got, sent in peers)
    return Sample(counts, Totals(*totals, failed), Totals(*totals, failed))


def of(links: Links, place: tuple[str, int]) -> list[Link]:
    return [link for link in links if link.place == place]


def test_what_moved_since_the_last_sample_belongs_to_the_connection_that_ended() -> None:
    links = Links()
    links.connected(A, OWN, 0.0)
    links.connected(B, OWN, 0.0)
    links.sampled(sample((A, 100, 5), (B, 10, 0), totals=(110, 5)), OWN, 1.0)
    links.ended(A, name_of(A), 1.5)
    links.sampled(sample((B, 30, 0), totals=(180, 9)), OWN, 2.0)
    (a,), (b,) = of(links, A), of(links, B)
    assert (a.received, a.sent, a.ended_at) == (150, 9, 1.5)
    assert (b.received, b.ended_at) == (30, None)


def test_connection_that_came_and_went_between_samples_is_counted() -> None:
    links = Links()
    links.connected(A, OWN, 0.1)
    links.ended(A, name_of(A), 0.4)
    assert links.has_changed
    links.sampled(sample(totals=(0, 7000)), OWN, 1.0)
    (a,) = links
    assert (a.sent, a.received, a.name) == (7000, 0, name_of(A))
    assert not links.has_changed


def test_nobody_gets_what_one_of_several_sent_that_ended() -> None:
    links = Links()
    for place in (A, B):
        links.connected(place, OWN, 0.0)
        links.ended(place, name_of(place), 0.5)
    links.sampled(sample(totals=(9000, 0)), OWN, 1.0)
    assert [link.received for link in links] == [0, 0]


def test_connection_counts_anew_when_a_peer_comes_back() -> None:
    links = Links()
    links.connected(A, OWN, 0.0)
    links.sampled(sample((A, 100, 0), totals=(100, 0)), OWN, 1.0)
    links.ended(A, name_of(A), 1.1)
    links.connected(A, OWN, 1.2)
    links.sampled(sample((A, 40, 0), totals=(140, 0)), OWN, 2.0)
    assert sorted(link.received for link in links) == [40, 100]
    again = PeerCounts(A, b"x" * 20, 3, 0, 0)  # no alert said so, but it names itself otherwise
    links.sampled(Sample((again,), Totals(143), Totals(143)), OWN, 3.0)
    assert sorted(link.received for link in links) == [3, 40, 100]


def test_sample_that_is_older_than_an_alert_changes_nothing_that_it_said() -> None:
    links = Links()
    links.connected(A, OWN, 0.0)
    links.sampled(sample((A, 10, 0), totals=(10, 0)), OWN, 1.0)
    links.connected(B, OWN, 2.05)  # after libtorrent was asked
    links.ended(A, name_of(A), 2.1)
    links.sampled(sample((A, 60, 0), totals=(60, 0)), OWN, 2.0)
    (a,) = of(links, A)
    assert (a.received, a.ended_at) == (60, 2.1)
    assert of(links, B)[0].ended_at is None
    links.sampled(sample(totals=(75, 0)), OWN, 3.0)
    assert of(links, A)[0].received == 75, "it went on until it ended"


def test_connection_that_is_gone_without_an_alert_has_ended() -> None:
    links = Links()
    links.sampled(sample((A, 10, 0), totals=(10, 0)), OWN, 1.0)
    links.sampled(sample(totals=(10, 0)), OWN, 2.0)
    assert [link.ended_at for link in links] == [2.0]
    assert not links.live


def test_totals_that_begin_anew_after_a_pause_are_no_loss() -> None:
    links = Links()
    links.connected(A, OWN, 0.0)
    links.sampled(sample((A, 500, 0), totals=(500, 0)), OWN, 1.0)
    links.ended(A, name_of(A), 1.1)
    links.sampled(sample(totals=(0, 0)), OWN, 2.0)
    links.connected(B, OWN, 2.1)
    links.ended(B, name_of(B), 2.2)
    links.sampled(sample(totals=(20, 0)), OWN, 3.0)
    assert [link.received for link in links] == [500, 20]


def test_bytes_of_wrong_pieces_are_those_of_the_banned_peer() -> None:
    links = Links()
    links.connected(A, OWN, 0.0)
    links.sampled(sample((A, 10, 0), totals=(10, 0)), OWN, 1.0)
    links.banned(A, name_of(A))
    links.ended(A, name_of(A), 1.5)
    links.sampled(sample(totals=(100, 0), failed=64), OWN, 2.0)
    (a,) = links
    assert (a.was_banned, a.received, a.failed) == (True, 100, 64)


def test_wrong_pieces_that_were_counted_before_the_ban_are_not_forgotten() -> None:
    links = Links()
    links.connected(A, OWN, 0.0)
    links.sampled(sample((A, 100, 0), totals=(100, 0), failed=64), OWN, 1.0)
    links.banned(A, name_of(A))
    links.ended(A, name_of(A), 1.5)
    links.sampled(sample(totals=(100, 0), failed=64), OWN, 2.0)
    assert [link.failed for link in links] == [64]


def test_what_never_met_is_forgotten_unless_it_was_refused() -> None:
    links = Links()
    for place, refused in ((A, False), (B, True)):
        links.connected(place, OWN, 0.0)
        links.ended(place, NOBODY, 0.5, refused=refused)
    assert [(link.place, link.was_refused) for link in links] == [(B, True)]


def test_ended_connections_are_kept_for_a_while_and_not_more_than_a_number() -> None:
    links = Links()
    for port in range(MOST_ENDED + 10):
        links.connected(("192.0.2.3", port), OWN, 1.0)
        links.ended(("192.0.2.3", port), b"n" * 20, 2.0)
    assert len(list(links)) == MOST_ENDED
    links.forget(2.0 + KEEP_S / 2)
    assert len(list(links)) == MOST_ENDED
    links.forget(2.0 + KEEP_S)
    assert not list(links)
