"""Networks of real nodes with real workers, and their expected answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from aitorrentd.api import DIRECTORY
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, wait_for

READY_S = 90.0


def shards_config(path: Path, layers: str, **settings: Any) -> dict[str, Any]:
    """A node's configuration with one model, called `m`."""
    model = {"name": "m", "path": str(path), "layers": layers, "kv_budget": "64MiB"}
    return {
        "plugins": {
            "ollama": {"enabled": False},
            "openai": {"enabled": False},
            "shards": {"models": [model]} | settings,
        }
    }


def spans_seen(node: Node) -> int:
    """Spans in a node's directory."""
    return len(node.service(DIRECTORY).known("ait:shard:"))


async def shards_network(
    factory: NodeFactory, path: Path, layers: Sequence[str], **settings: Any
) -> list[Node]:
    """One node for each entry of `layers`, all connected, with all spans known to all."""
    nodes = [await factory(shards_config(path, wanted, **settings)) for wanted in layers]
    for i, node in enumerate(nodes):
        for other in nodes[:i]:
            await node.connect(other.addresses()[0])
    held = sum(wanted != "none" for wanted in layers)
    await wait_for(lambda: all(spans_seen(node) == held for node in nodes), READY_S)
    return nodes


def reference_ids(path: Path, prompt: Sequence[int], new: int) -> list[int]:
    """New token ids from transformers' generate(), greedy, float32, in this process."""
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = torch.tensor([list(prompt)])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False
    )
    return [int(i) for i in out[0, len(prompt) :]]


async def answer(node: Node, prompt: str, **params: Any) -> dict[str, Any]:
    """A complete answer: its ids, text, and last chunk."""
    ids: list[int] = []
    text = ""
    chunk = None
    async for chunk in node.generate(prompt, model="m", **params):
        ids += chunk.token_ids
        text += chunk.text
    return {"ids": ids, "text": text, "last": chunk}


def greedy(new: int, **more: Any) -> Mapping[str, Any]:
    """Parameters for a greedy answer."""
    return {"temperature": 0.0, "max_tokens": new} | more
