"""What a node lists and says once a node that held layers of a model was killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from tests.support.cli_runs import run
from tests.support.nodes import Daemon, DaemonFactory, wait_for

SHARES = {"ann": "0-3", "ben": "3-6", "cyd": "6-9"}


async def three(make: DaemonFactory) -> dict[str, Daemon]:
    """Three connected daemons that hold a third of the demo model each, with the DHT."""
    daemons: dict[str, Daemon] = {}
    known: Sequence[str] = ()
    for name, layers in SHARES.items():
        plugins: dict[str, Any] = {
            "ollama": {"enabled": False},
            "openai": {"enabled": False},
            "shards": {"models": [{"name": "demo", "layers": layers, "kv_budget": "64MiB"}]},
            "transport": {"bootstrap": list(known)},
        }
        daemons[name] = await make({"node": {"name": name}, "plugins": plugins})
        known = [*known, (await daemons[name].call("transport.addresses"))["addresses"][0]]
    return daemons


async def ready_at(daemon: Daemon) -> set[str]:
    """The backends that `models` lists for the demo model."""
    rows = (await daemon.call("inference.models"))["models"]
    return {row["backend"] for row in rows if row["name"] == "demo"}


async def test_model_whose_holder_was_killed_is_not_ready_and_not_waited_for_in_vain(
    daemon_factory: DaemonFactory,
) -> None:
    daemons = await three(daemon_factory)
    ann, ben, cyd = daemons.values()
    ids = {name: (await daemon.call("node.id"))["id"] for name, daemon in daemons.items()}
    everybody = {"shards", f"peer:{ids['ben']}", f"peer:{ids['cyd']}"}

    async def all_offer() -> bool:
        return await ready_at(ann) == everybody

    async def in_the_dht() -> bool:
        found = await cyd.call("dht.find", {"key": "ait:cap:demo"})
        return ids["ben"] in {row["peer"] for row in found["providers"]}

    async def nobody_offers() -> bool:
        return not await ready_at(ann) and not await ready_at(cyd)

    await wait_for(all_offer, 90.0, every_s=0.2)
    await wait_for(in_the_dht, 60.0, every_s=0.5)
    await ben.kill()
    await wait_for(nobody_offers, 5.0, every_s=0.1)

    # Looking for the model brings back the records that the DHT keeps of the dead node.
    code, out, err = await run(ann, "ask", "--model", "demo", "--max-tokens", "2", "hi")
    assert (code, out) == (1, ""), err
    gone = f'no reachable node holds layers 3-6 of demo, last held by …{ids["ben"][-8:]} "ben"'
    assert f"model demo cannot answer now: {gone}" in err
    assert await nobody_offers()
    # A peer that is asked by name gives the same reason.
    _, _, err = await run(ann, "ask", "--backend", f"peer:{ids['cyd']}", "-m", "demo", "hi")
    assert gone in err
    began = time.monotonic()
    code, out, err = await run(ann, "--timeout", "3", "wait", "--model", "demo")
    assert (code, out) == (75, ""), err
    assert time.monotonic() - began >= 3
    assert "no reachable node holds layers 3-6 of demo" in err

    # The node comes back while a prompt waits for it.
    words = ("ask", "--model", "demo", "--max-tokens", "2", "--wait", "90", "hi")
    waiting = asyncio.create_task(run(ann, *words))

    async def waits() -> bool:
        prefix = {"prefix": "aitorrent_generations_queued"}
        (metric,) = (await ann.call("monitor.metrics", prefix))["metrics"]
        return bool(metric["series"][0]["value"])

    await wait_for(waits, 60.0)
    await daemon_factory(directory=ben.directory)
    code, out, err = await waiting
    assert (code, bool(out)) == (0, True), err
    assert f"[waiting for model demo: {gone}" in err
    code, out, err = await run(ann, "--timeout", "90", "wait", "--model", "demo")
    assert (code, out) == (0, "demo is ready\n"), err
