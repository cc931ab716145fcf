"""Models that are not there yet."""

from __future__ import annotations

import pytest

from aitorrent_shards.answering.availability import elsewhere
from aitorrent_shards.protocol.loading import Loading
from aitorrentd.api import PeerId, short
from tests.support.transport.transport_nodes import Identity

HERE, ANN, BEN = (Identity(name).peer_id for name in ("here", "ann", "ben"))


@pytest.mark.parametrize(
    ("ranges", "is_fetching"),
    [
        ([(ANN, 0, 3), (BEN, 3, 6)], False),
        ([(ANN, 0, 3), (BEN, 0, 0)], True),
    ],
)
def test_peer_that_knows_no_layers_of_its_own_yet_may_fetch_for_hours(
    ranges: list[tuple[PeerId, int, int]], is_fetching: bool
) -> None:
    loading = [Loading(peer, "m", start, end, 1, 9) for peer, start, end in ranges]
    (found,) = elsewhere(loading, (), short, HERE)
    assert (found.state, found.is_fetching, found.done_bytes) == ("loading", is_fetching, 2)
