"""Every kind of NAT against every other: who connects to whom, how, and what it carries."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import AitorrentError
from tests.support.nat.daemons import PORT, daemon_at, peer_id, peers
from tests.support.nat.lab import Host, Lab
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

KINDS = ("public", "fullcone", "addrrestricted", "portrestricted", "symmetric")
CONES = KINDS[1:4]
PROMPT = "WHICH WAY LEADS THROUGH BOTH"
NEW = 8
# What other plugins connect by themselves would hide what is tried here.
ALONE: Mapping[str, Any] = {
    "plugins": {
        "shards": {"enabled": False},
        "discovery": {"enabled": False},
        "dht": {"enabled": False},
        "openai": {"enabled": False},
    }
}


def expected(a: str, b: str) -> str:
    """The route on which a node of kind `a` that dials one of kind `b` ends up."""
    if "public" in (a, b):
        return "direct"  # if the other one dials, this is what the public one sees
    if {a, b} <= {*CONES}:
        return "punched"
    return "relay" if a == b == "symmetric" else "quic"


def holding(path: Path, layers: str, **transport: Any) -> dict[str, Any]:
    """The configuration of a node that holds layers of the model at `path`."""
    model = {"name": "m", "path": str(path), "layers": layers, "kv_budget": "64MiB"}
    shards = {"enabled": True, "models": [model], "step_timeout_s": 2.0, "ping_timeout_s": 1.0}
    return merged(ALONE, {"plugins": {"shards": shards, "transport": transport}})


async def knows_its_nat(daemon: Daemon) -> bool:
    """Whether it found out what is in front of it, and can be reached somehow."""
    status = await daemon.call("nat.status")
    return status["behaviour"]["mapping"] != "unknown" and bool(await places(daemon))


async def places(daemon: Daemon) -> list[str]:
    """Addresses at which strangers can dial it: its own if they are public, or through a relay."""
    found: list[str] = (await daemon.call("transport.addresses"))["addresses"]
    return [each for each in found if "p2p-circuit" in each or each.startswith("/ip4/11.")]


async def route_to(daemon: Daemon, peer: str) -> str:
    """How it is connected to a peer; empty if it is not."""
    return next((str(p["route"]) for p in await peers(daemon) if p["id"] == peer), "")


async def internet(net: Lab, factory: DaemonFactory) -> list[Host]:
    """Three public daemons, which are relays and mirrors for others."""
    hosts = [net.public() for _ in range(3)]
    for i, host in enumerate(hosts):
        await daemon_at(factory, host, ALONE, bootstrap=hosts[0] if i else None)
    return hosts


async def joined(
    factory: DaemonFactory, host: Host, publics: list[Host], tree: Mapping[str, Any]
) -> Daemon:
    """A daemon that is connected to all public ones."""
    bootstrap = [f"{each.address}:{PORT}" for each in publics]
    return await daemon_at(
        factory, host, merged(tree, {"plugins": {"transport": {"bootstrap": bootstrap}}})
    )


async def loaded(node: Daemon) -> bool:
    """Whether its layers are."""
    models = (await node.call("shards.models"))["models"]
    return bool(models) and all(m["state"] == "ready" for m in models)


async def all_ready(nodes: Iterable[Daemon]) -> None:
    """Wait until every node has loaded its layers and knows what is in front of it."""
    for node in nodes:
        await wait_for(lambda: knows_its_nat(node), 60, every_s=0.3)  # noqa: B023
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


async def connected(a: Daemon, b: Daemon, b_id: str, route: str, within_s: float = 40.0) -> float:
    """Connect `a` to `b`; seconds until the channel has the route."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for place in await places(b):
        try:
            await a.call("transport.connect", {"address": place})
            break
        except AitorrentError:
            continue
    else:
        raise AssertionError(f"not connected at {await places(b)}")

    async def has_route() -> bool:
        return await route_to(a, b_id) == route

    await wait_for(has_route, within_s, every_s=0.02)
    return loop.time() - began


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
                # Guessing ports may miss, and is tried again after a minute.
                within_s = 130.0 if {a, b} == {"portrestricted", "symmetric"} else 40.0
                took[a, b] = await connected(one, two, two_id, expected(a, b), within_s)
                ids = await answer(one)
                if ids != wanted:
                    failures.append(f"{a} to {b}: answered {ids}, not {wanted}")
            except (AssertionError, AitorrentError) as e:
                attempts = await one.call("transport.why", {"peer": two_id})
                failures.append(f"{a} to {b}: {await route_to(one, two_id)!r}: {e}; {attempts}")
            for node, peer in ((one, two_id), (two, await peer_id(one))):
                try:
                    await node.call("transport.disconnect", {"peer": peer})
                except AitorrentError:
                    continue  # the other side was faster
    assert not failures, "\n".join(failures)
    slow = [s for (a, b), s in took.items() if {a, b} == {"portrestricted", "symmetric"}]
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
