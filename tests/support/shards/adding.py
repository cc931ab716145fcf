"""Nodes to which models are added, an origin that names one, and a swarm that has it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.methods import shards_methods
from aitorrent_shards.methods_models import Added, AddParams, model_methods
from aitorrent_shards.service import ShardsService
from aitorrentd.api import NoParams, Registry
from aitorrentd.api.models.weights import MODEL_NAMES, WEIGHTS, ModelNames
from tests.support.shards.folder_weights import FolderWeights, OneModel, files_in
from tests.support.shards.shards_fakes import FakeNode, write_toy_model
from tests.support.transport.memory_network import MemoryNetwork

SOURCE = "hf://org/toy"


class Call:
    """A call of the control API."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float | None, float | None]] = []

    def progress(
        self, text: str, *, done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        self.told.append((text, done, total))


class Site:
    """Nodes in a network, an origin of one model, and a swarm that has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = write_toy_model(folder / "whole")
        tensors = {f"model.layers.{n}.w": n for n in range(6)} | {"model.embed_tokens.weight": 6}
        tensors |= {"model.norm.weight": 7, "lm_head.weight": 8}
        header = json.dumps(
            {
                name: {"dtype": "F32", "shape": [250], "data_offsets": [n * 1000, n * 1000 + 1000]}
                for name, n in tensors.items()
            }
        ).encode()
        content = len(header).to_bytes(8, "little") + header + bytes(range(250)) * 36
        (self.whole / "model.safetensors").write_bytes(content)
        self.net = MemoryNetwork()
        self.origin = OneModel(files_in(self.whole))
        self.names: Registry[ModelNames] = Registry("model name scheme")

    def node(self, number: int, **settings: Any) -> FakeNode:
        """A node that is not running yet; the same number has the same state."""
        home = self.folder / f"node{number}"
        home.mkdir(exist_ok=True)
        weights = FolderWeights(self.whole.iterdir(), home / "store", piece=100)
        return FakeNode(
            self.net,
            number,
            home,
            ShardsConfig.model_validate(settings),
            services={WEIGHTS: weights, MODEL_NAMES: self.names},
        )


@asynccontextmanager
async def site_in(folder: Path) -> AsyncIterator[Site]:
    """A site that ends with the block; fails if a stream handler failed."""
    site = Site(folder)
    with site.names.added("hf", site.origin):
        yield site
    await site.net.close()
    assert not site.net.errors


def method(service: ShardsService, name: str) -> Any:
    """The handler of a control method."""
    found = [*shards_methods(lambda: service), *model_methods(lambda: service)]
    return next(m.handler for m in found if m.name == name)


async def add(node: FakeNode, call: Call | None = None, **params: Any) -> Added:
    """Add the model `toy`."""
    given = {} if "path" in params else {"source": SOURCE}
    asked = AddParams.model_validate({"name": "toy"} | given | params)
    added: Added = await method(node.shards, "shards.add_model")(call or Call(), asked)
    return added


def rows(node: FakeNode) -> list[Any]:
    """Its models."""
    return list(method(node.shards, "shards.models")(Call(), NoParams()).models)


@asynccontextmanager
async def running(*nodes: FakeNode) -> AsyncIterator[None]:
    """Run nodes while the block runs."""
    async with nodes[0].running():
        if len(nodes) == 1:
            yield
        else:
            async with running(*nodes[1:]):
                yield
