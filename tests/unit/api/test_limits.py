"""How many of something one peer has at a time."""

from __future__ import annotations

from aitorrentd.api.limits import InUse


def test_what_does_not_fit_is_refused_for_each_peer_by_itself() -> None:
    in_use: InUse[str] = InUse()
    assert [in_use.take("a", 2) for _ in range(3)] == [True, True, False]
    assert in_use.take("b", 2)
    in_use.release("a")
    assert in_use.take("a", 2)
    assert (in_use.of("a"), in_use.of("b"), in_use.of("c")) == (2, 1, 0)


def test_peers_that_have_nothing_leave_no_entry() -> None:
    in_use: InUse[str] = InUse()
    assert not in_use.take("refused", 0)
    assert in_use.of("asked about") == 0
    assert in_use.take("a", 1)
    in_use.release("a")
    assert len(in_use) == 0
