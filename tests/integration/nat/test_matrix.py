"""Every kind of NAT against every other: who connects to whom, how, and what it carries."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aitorrent_nat.reach.part import RETRY_S
from aitorrentd.api import AitorrentError
from tests.support.nat.daemons import peer_id, route_to
from tests.support.nat.lab import Lab
from tests.support.nat.matrix import (
    ALONE,
    BIRTHDAY,
    BIRTHDAY_S,
    KINDS,
    connected,
    disconnected,
    expected,
    internet,
    joined,
    knows_its_nat,
)
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nodes import Daemon, DaemonFactory, merged, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import READY_S, reference_ids

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
    pytest.mark.timeout(900),
]

PROMPT = "WHICH WAY LEADS THROUGH BOTH"
NEW = 8


def holding(path: Path, layers: str, **transport: Any) -> dict[str, Any]:
    """The configuration of a node that holds layers of the model at `path`."""
    model = {"name": "m", "path": str(path), "layers": layers, "kv_budget": "64MiB"}
    shards = {"enabled": True, "models": [model], "step_timeout_s": 2.0, "ping_timeout_s": 1.0}
    return merged(ALONE, {"plugins": {"shards": shards, "transport": transport}})


async def loaded(node: Daemon) -> bool:
    """Whether its layers are."""
    models = (await node.call("shards.models"))["models"]
    return bool(models) and all(m["state"] == "ready" for m in models)


async def all_ready(nodes: Iterable[Daemon]) -> None:
    """Wait until every node has loaded its layers and knows what is in front of it."""
    for node in nodes:
        await wait_for(lambda: knows_its_nat(node), 2 * RETRY_S, every_s=0.3)  # noqa: B023
        await wait_for(lambda: loaded(node), READY_S, every_s=0.3)  # noqa: B023


async def answer(
    daemon: Daemon, new: int = NEW, act: Callable[[], Awaitable[None]] | None = None
) -> list[int]:
    """Token ids of a greedy answer; after the first few of them, `act` is done."""

    async def complete() -> bool:
        return len((await daemon.call("shards.spans"))["spans"]) == 2

    await wait_for(complete, 20)
    ids: list[int] = []
    params = {"max_tokens": new, "temperature": 0.0}
    call = {"model": "m", "prompt": PROMPT, "params": params}
    async with await daemon.client(120) as client:
        async for item in client.stream("inference.generate", call):
            ids += item["token_ids"]
            if act is not None and len(ids) > 3:
                await act()
                act = None
    return ids


def reference(path: Path, new: int = NEW) -> list[int]:
    """Token ids that transformers computes."""
    return reference_ids(path, [ord(c) - 33 if c != " " else 220 for c in PROMPT], new)


async def test_every_kind_of_nat_reaches_every_other(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path, figures: dict[str, str]
) -> None:
    path = make_model(tmp_path / "m")
    publics = await internet(nat_lab, daemon_factory)
    nodes = {
        (kind, layers): await joined(
            daemon_factory, nat_lab.place(kind), publics, holding(path, layers)
        )
        for layers in ("0-3", "3-6")
        for kind in KINDS
    }
    await all_ready(nodes.values())
    wanted = reference(path)
    took: dict[tuple[str, str], float] = {}
    failures: list[str] = []
    for a in KINDS:
        for b in KINDS:
            one, two = nodes[a, "0-3"], nodes[b, "3-6"]
            two_id = await peer_id(two)
            try:
                within_s = BIRTHDAY_S if {a, b} == BIRTHDAY else 100.0
                took[a, b] = (await connected(one, two, two_id, expected(a, b), within_s)).route_s
                ids = await answer(one)
                if ids != wanted:
                    failures.append(f"{a} to {b}: answered {ids}, not {wanted}")
            except (AssertionError, AitorrentError) as e:
                attempts = await one.call("transport.why", {"peer": two_id})
                failures.append(f"{a} to {b}: {await route_to(one, two_id)!r}: {e}; {attempts}")
            await disconnected(one, two)
    assert not failures, "\n".join(failures)
    slow = [s for (a, b), s in took.items() if {a, b} == BIRTHDAY]
    quick = sorted(s for s in took.values() if s not in slow)
    figures["NAT matrix, all but birthday"] = (
        f"median {statistics.median(quick):.2f} s, p90 {quick[int(0.9 * len(quick))]:.2f} s"
    )
    figures["NAT matrix, birthday"] = ", ".join(f"{s:.2f} s" for s in slow)


async def test_answer_goes_on_through_the_relay_when_the_direct_path_is_cut(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m")
    publics = await internet(nat_lab, daemon_factory)
    here, there = nat_lab.place("portrestricted"), nat_lab.place("addrrestricted")
    one, two = [
        await joined(daemon_factory, host, publics, holding(path, layers, keepalive_s=1.0))
        for host, layers in ((here, "0-3"), (there, "3-6"))
    ]
    await all_ready((one, two))
    two_id = await peer_id(two)
    await connected(one, two, two_id, "punched")
    with ExitStack() as stack:

        async def cut() -> None:
            stack.enter_context(nat_lab.cut(here, there))

        assert await answer(one, 60, cut) == reference(path, 60)
        assert await route_to(one, two_id) == "relay"

    async def is_direct() -> bool:
        return await route_to(one, two_id) in ("punched", "quic")

    try:
        await wait_for(is_direct, 150, every_s=0.3)
    except AssertionError as e:
        raise AssertionError(f"{e}: {await one.call('transport.why', {'peer': two_id})}") from None
