"""Fetches of a model's layers, while daemons are killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from aitorrent_seeding.torrents.canonical import piece_length
from aitorrent_shards.models.layer_bytes import Range, tensor_ranges
from aitorrent_shards.models.safetensors import layout_of, open_weights
from aitorrent_shards.models.tensor_names import LayerTensors
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import seeding_daemon
from tests.support.seeding.kill_trials import ALONE, LIFE_S, OFF, Found
from tests.support.seeding.kill_works import RATE, Downloading, missing_bytes, sha256_of
from tests.support.servers.hub.fake_hub import FakeHub
from tests.support.shards.models import make_model

LAYERS: Final = 8
WANTED: Final = "3-6"
MODEL: Final[dict[str, Any]] = {
    "layers": LAYERS,
    "hidden": 512,
    "intermediate": 1536,
    "heads": 8,
    "kv_heads": 2,
    "head_dim": 64,
    "vocab": 2048,
}
"About 106 MB; three layers of it are 37 MB."
REPO: Final = "org/model"
WITH_SHARDS: Final = {name: table for name, table in ALONE.items() if name != "shards"}


class FetchingLayers(Downloading):
    """Add a model by its digest: only some layers of it are fetched, from a node."""

    tables = WITH_SHARDS

    def __init__(
        self, daemons: DaemonFactory, found: Found, weights: Path, seeder: Daemon, digest: str
    ) -> None:
        super().__init__(daemons, found, weights.parent, seeder)
        self._model = digest
        self._content = weights.read_bytes()
        self._digest = sha256_of(weights)
        self._ranges = ranges_of(weights)
        length = piece_length(len(self._content))
        self._wanted = {n for a, b in self._ranges for n in range(a // length, -(-b // length))}

    async def begin(self) -> None:
        """A node that has nothing."""
        if self.directory is not None:
            shutil.rmtree(self.directory / "state")
        self._there = [False] * -(-len(self._content) // piece_length(len(self._content)))

    async def do(self, daemon: Daemon) -> None:
        """Add the model, unless it is there, and wait for the bytes of its layers."""
        models = (await daemon.call("shards.models"))["models"]
        if not any(model["name"] == "m" for model in models):
            params = {"name": "m", "source": self._model, "layers": WANTED, "wait": False}
            await daemon.call("shards.add_model", params)
        await wait_for(lambda: weights_link(daemon.state_dir), LIFE_S)

    def check(self, state_dir: Path) -> None:
        """What the worker may read is right; pieces that were there are there."""
        super().check(state_dir)
        if (link := weights_link(state_dir)) is not None:
            there = link.read_bytes()
            for start, end in self._ranges:
                assert there[start:end] == self._content[start:end], f"wrong bytes from {start} on"

    def missing(self) -> int:
        """Bytes of the pieces with wanted layers that were not there when this life began."""
        there = [here or n not in self._wanted for n, here in enumerate(self._there)]
        return missing_bytes(there, len(self._content))

    async def check_finished(self, daemon: Daemon) -> None:
        """Only what was missing came."""
        fetched = await self.fetched(daemon)
        missing = self.missing()
        assert fetched <= missing, f"{fetched} bytes came, and {missing} were missing"
        nothing = [n not in self._wanted for n in range(len(self._there))]
        self.found.kept_bytes += missing_bytes(nothing, len(self._content)) - missing

    async def end(self) -> None:
        """The layers compute."""
        daemon = await self.daemon()
        await daemon.ready(LIFE_S)
        await self._finish(daemon)

        async def is_ready() -> bool:
            (model,) = (await daemon.call("shards.models"))["models"]
            return bool(model["state"] == "ready")

        await wait_for(is_ready, LIFE_S, every_s=0.2)


def ranges_of(weights: Path) -> list[Range]:
    """The header of a file, and the bytes of the wanted layers."""
    with open(open_weights(weights), "rb") as file:
        layout = layout_of(file.fileno(), weights.name)
    start, end = map(int, WANTED.split("-"))
    names = LayerTensors(start, end, LAYERS).among(layout.tensors)
    return [(0, layout.header_bytes), *tensor_ranges(layout, names)]


def weights_link(state_dir: Path) -> Path | None:
    """Where a worker reads the weights, once it may."""
    return next((state_dir / "shards" / "models").glob("*/model.safetensors"), None)


async def fetching_layers(daemons: DaemonFactory, found: Found, folder: Path) -> FetchingLayers:
    """Ready to begin: a node holds all layers of a model, and the hub that it came from is gone."""
    whole = make_model(folder / "model", **MODEL)
    with FakeHub() as hub:
        hub.add(REPO, {path.name: path.read_bytes() for path in whole.iterdir()})
        model = {"name": "m", "source": f"hf://{REPO}", "kv_budget": "64MiB"}
        tables = {
            **{name: OFF for name in ("ollama", "openai", "discovery", "nat", "catalogue")},
            "hub": {"enabled": True, "upstream": hub.url, "port": 0},
            "shards": {"models": [model]},
        }
        seeder = await seeding_daemon(daemons, plugins=tables, upload_limit=RATE)

        async def digest() -> str:
            (model,) = (await seeder.call("shards.models"))["models"]
            return str(model["digest"]) if model["state"] == "ready" else ""

        found_digest = await wait_for(digest, LIFE_S, every_s=0.2)
    return FetchingLayers(daemons, found, whole / "model.safetensors", seeder, found_digest)
