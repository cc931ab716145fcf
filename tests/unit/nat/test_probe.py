"""What `nat probe` says when nobody answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from aitorrent_nat.probing import probe
from aitorrent_nat.service import NatService
from aitorrent_nat.stun.behaviour import Behaviour, Filtering, Mapping
from aitorrentd.api import Unavailable


async def test_what_was_known_before_is_not_passed_off_as_a_new_result() -> None:
    async def look() -> None: ...

    reach = SimpleNamespace(
        servers=SimpleNamespace(observed=(), problems={}),
        observed=[],
        behaviour=Behaviour(
            Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, "203.0.113.7"
        ),
        witnesses=lambda: ["a peer"],
        look=look,
    )
    service = cast(NatService, SimpleNamespace(reach=reach, config=SimpleNamespace(stun=())))
    with pytest.raises(Unavailable, match="no peer answered; see aitorrentctl peers"):
        await probe(service, None, lifetime=False, progress=lambda text: None)
