"""When transfers are told, and how many bytes of them."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_seeding.crediting.accounts import FROM, PAUSE_S, TO, Accounts, Credit
from aitorrent_seeding.session.links import Link
from aitorrentd.api import PeerId, peer_id
from tests.support.effort import examples

X, Y = (peer_id(random.Random(n).randbytes(32)) for n in range(2))


def link(node: PeerId | None, *, received: int = 0, sent: int = 0, failed: int = 0) -> Link:
    return Link(("192.0.2.1", 1), (), 0.0, b"n" * 20, received, sent, failed=failed, node=node)


def due(
    accounts: Accounts, now: float, *, verified: int = 0, is_whole: bool = False, over: bool = False
) -> list[Credit]:
    return list(accounts.due(verified=verified, is_whole=is_whole, is_over=over, now=now))


def test_long_transfer_is_told_in_parts_and_each_byte_once() -> None:
    accounts, one = Accounts(every_bytes=100), link(X)
    told = []
    for second in range(1, 8):
        one.sent += 60
        accounts.add([one], float(second))
        told += due(accounts, float(second))
    assert [credit.size_bytes for credit in told] == [120, 120, 120]
    assert [credit.duration_s for credit in told] == [2.0, 2.0, 2.0]
    (rest,) = due(accounts, 7.0 + PAUSE_S)
    assert (rest.size_bytes, rest.direction, rest.node) == (60, TO, X)
    accounts.add([one], 30.0)
    assert due(accounts, 60.0, over=True) == []


def test_only_verified_bytes_count_as_received() -> None:
    accounts = Accounts(every_bytes=100)
    accounts.add([link(X, received=150), link(Y, received=100)], 1.0)
    assert [credit.size_bytes for credit in due(accounts, 1.0, verified=0)] == []
    assert sum(c.size_bytes for c in due(accounts, 1.0, verified=120)) == 120
    last = due(accounts, 2.0, verified=240, is_whole=True)
    assert sum(credit.size_bytes for credit in last) == 120
    assert not len(accounts), "bytes that came twice are nobody's"


def test_bytes_of_wrong_pieces_are_not_credited() -> None:
    accounts = Accounts()
    accounts.add([link(X, received=150, failed=100)], 1.0)
    assert [c.size_bytes for c in due(accounts, 1.0, verified=999, is_whole=True)] == [50]


def test_corrupt_node_takes_nothing_of_the_others_credit() -> None:
    """It sent more than the whole file, the first connection first; it still gets bytes from us."""
    accounts, bad = Accounts(), link(X, received=900, sent=20)
    accounts.add([bad, link(Y, received=100)], 1.0)
    accounts.bar(X)
    bad.received = 1800
    accounts.add([bad, link(X, received=500)], 2.0)
    told = due(accounts, 2.0, verified=100, is_whole=True, over=True)
    assert [(c.node, c.direction, c.size_bytes) for c in told] == [(X, TO, 20), (Y, FROM, 100)]


def test_connections_of_nobody_are_not_credited_until_their_node_is_known() -> None:
    accounts, one = Accounts(), link(None, received=100, sent=7)
    accounts.add([one], 1.0)
    assert not len(accounts)
    one.node = X
    accounts.add([one], 2.0)
    told = due(accounts, 2.0, verified=100, over=True)
    assert {(c.direction, c.size_bytes) for c in told} == {(FROM, 100), (TO, 7)}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 1000)), max_size=40),
    st.integers(1, 500),
)
@settings(max_examples=examples(100))
def test_sums_are_those_of_the_connections(
    steps: list[tuple[int, int, int]], every_bytes: int
) -> None:
    accounts = Accounts(every_bytes=every_bytes)
    links = [link(X), link(X), link(Y), link(None)]
    told: Counter[tuple[PeerId, str]] = Counter()
    for now, (which, got, sent) in enumerate([*steps, (0, 0, 0)]):
        links[which].received += got
        links[which].sent += sent
        accounts.add(links, float(now))
        verified = sum(one.received for one in links)
        for credit in due(accounts, float(now), verified=verified, over=now == len(steps)):
            told[credit.node, credit.direction] += credit.size_bytes
    for node in (X, Y):
        theirs = [one for one in links if one.node == node]
        assert told[node, FROM] == sum(one.received for one in theirs)
        assert told[node, TO] == sum(one.sent for one in theirs)
    assert set(told) <= {(node, way) for node in (X, Y) for way in (FROM, TO)}
