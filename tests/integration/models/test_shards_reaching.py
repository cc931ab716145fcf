"""Two holders that announce addresses at which nobody answers cannot reach each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitorrentd.api import Unavailable
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import READY_S, answer, greedy, shards_config, spans_seen

NOBODY = "/ip4/127.0.0.1/tcp/1"


async def is_withheld(node: Node) -> bool:
    return "m" not in [model.name for model in await node.models()]


async def test_model_is_not_offered_while_its_holders_cannot_reach_each_other(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m", layers=2)
    hub = await node_factory(shards_config(path, "none"))
    holders = []
    for layers in ("0-1", "1-2"):
        config = shards_config(path, layers)
        config["plugins"]["transport"] = {"announce": [NOBODY]}
        holders.append(await node_factory(config))
        await holders[-1].connect(hub.addresses()[0])
    await wait_for(lambda: spans_seen(hub) == 2, READY_S)
    withheld: bool = await wait_for(lambda: is_withheld(hub), 30)
    assert withheld
    first, second = (node.id for node in holders)
    said = rf"{first[-8:]} \(layers 0-1\) cannot reach .*{second[-8:]} \(layers 1-2\)"
    with pytest.raises(Unavailable, match=said):
        await answer(hub, "hi", raw=True, **greedy(2))
