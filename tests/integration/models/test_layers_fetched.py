"""A node that serves a third of a model fetches a third of its bytes, and any other can follow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from safetensors import safe_open

from aitorrent_shards.models.folder import read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import seeding_daemon, torrents
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import reference_ids

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BIG: Final[dict[str, Any]] = {
    "layers": 9,
    "hidden": 1024,
    "intermediate": 4096,
    "heads": 16,
    "kv_heads": 4,
    "head_dim": 64,
    "vocab": 4096,
    "seed": 11,
}
"About 580 MB: at most two pieces of 4 MiB at the edges of a third are under 5 % of it."
PIECE: Final = 4 * 2**20
THIRDS: Final = ("0-3", "3-6", "6-9")
REPO: Final = "org/big"
PROMPT: Final = "What does a third of a model know?"
NEW: Final = 6
LOAD_S: Final = 240.0


def bytes_of_layers(weights: Path, start: int, end: int) -> int:
    """Bytes of the tensors that layers [start, end) need."""
    total = 0
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = name.split(".")
            if part[1] == "layers":
                counts = start <= int(part[2]) < end
            else:
                counts = (start == 0) if "embed" in name else (end == BIG["layers"])
            if counts:
                tensor = file.get_slice(name)
                size = 4
                for dim in tensor.get_shape():
                    size *= dim
                total += size
    return total


def plugins(hub: FakeHub) -> Mapping[str, Any]:
    return {
        "hub": {"enabled": True, "upstream": hub.url, "port": 0},
        **{name: {"enabled": False} for name in ("ollama", "openai", "discovery", "nat")},
    }


async def add(daemon: Daemon, source: str, layers: str) -> dict[str, Any]:
    params = {"name": "big", "source": source, "layers": layers, "dtype": "float32"}
    return await daemon.call("shards.add_model", params, timeout_s=LOAD_S)


async def fetched_bytes(daemon: Daemon, sha256: str) -> int:
    (row,) = [row for row in await torrents(daemon) if row["sha256"] == sha256]
    return int(row["done"])


async def answer(daemon: Daemon) -> list[int]:
    """Token ids of the greedy answer."""
    request = {
        "model": "big",
        "prompt": PROMPT,
        "raw": True,
        "params": {"temperature": 0, "max_tokens": NEW},
    }
    async with await daemon.client(120) as client:
        ids: list[int] = []
        async for item in client.stream("inference.generate", request):
            ids += item.get("token_ids", [])
        return ids


async def test_three_nodes_fetch_a_third_each_and_a_fourth_takes_over(
    tmp_path: Path, daemon_factory: DaemonFactory
) -> None:
    whole = make_model(tmp_path / "whole", **BIG)
    weights = whole / "model.safetensors"
    with FakeHub() as hub:
        hub.add(REPO, {path.name: path.read_bytes() for path in whole.iterdir()})
        seeder = await seeding_daemon(daemon_factory, plugins=plugins(hub))
        shared = await seeder.call("seeding.share", {"path": str(weights)}, timeout_s=120)
        sha256 = shared["files"][0]["sha256"]
        nodes = [await seeding_daemon(daemon_factory, seeder, plugins=plugins(hub)) for _ in THIRDS]
        await connect_all(nodes)
        added = await asyncio.gather(
            *(add(node, f"hf://{REPO}", part) for node, part in zip(nodes, THIRDS, strict=True))
        )
        assert {row["state"] for row in added} == {"ready"}
        (digest,) = {row["digest"] for row in added}
        for node, part in zip(nodes, THIRDS, strict=True):
            start, end = map(int, part.split("-"))
            needed = bytes_of_layers(weights, start, end)
            got = await fetched_bytes(node, sha256)
            print(f"layers {part}: {got / needed:.3f} of the bytes of their tensors")
            assert needed <= got <= 1.05 * needed + PIECE  # the header has a piece of its own
        assert_workers_may_read(nodes[0])
        prompt = ModelTokenizer(read_model(whole), model="big").encode(PROMPT, [], (), raw=True)
        expected = reference_ids(whole, prompt, NEW)
        await wait_for(lambda: covered(nodes[0]), 60, every_s=0.2)
        assert await answer(nodes[0]) == expected
    # The hub is gone. One stage dies, and another node takes its layers from the swarm.
    fourth = await seeding_daemon(daemon_factory, seeder, plugins=plugins(hub))
    await connect_all([fourth, *nodes])
    await wait_for(lambda: knows_spans(fourth, 3), 60, every_s=0.2)
    await nodes[1].kill()
    taken = await add(fourth, digest, THIRDS[1])
    assert (taken["state"], taken["digest"]) == ("ready", digest)
    await wait_for(lambda: covered(nodes[0]), 60, every_s=0.2)
    assert await answer(nodes[0]) == expected


def assert_workers_may_read(daemon: Daemon) -> None:
    """Under systemd they are another user, in the daemon's group."""
    (weights,) = (daemon.state_dir / "shards" / "models").glob("*/model.safetensors")
    for path in (weights, weights.resolve()):
        assert path.stat().st_mode & 0o040
        while (path := path.parent) != daemon.state_dir:
            assert path.stat().st_mode & 0o050 == 0o050, path


async def connect_all(nodes: Sequence[Daemon]) -> None:
    for i, node in enumerate(nodes):
        for other in nodes[:i]:
            (address, *_) = (await other.call("transport.addresses"))["addresses"]
            await node.call("transport.connect", {"address": address})


async def covered(daemon: Daemon) -> bool:
    return bool((await daemon.call("shards.models"))["models"][0]["covered"])


async def knows_spans(daemon: Daemon, count: int) -> bool:
    return len((await daemon.call("shards.spans"))["spans"]) >= count
