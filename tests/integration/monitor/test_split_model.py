"""What nodes measure while one model, split over two of them, answers."""

from __future__ import annotations

import math
from pathlib import Path

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.protocol.messages import PROTOCOL
from aitorrentd.api import GenerationEnded
from tests.support.nodes import NodeFactory, wait_for
from tests.support.scraping import has_no_session, measured
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import greedy, shards_network

PROMPT = "ABCDEFGH" * 5
"One token for each letter."
NEW = 16


async def test_answer_over_two_nodes_is_measured_on_both(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m")
    first, second = await shards_network(node_factory, path, ["0-3", "3-6"], prefill_chunk=16)
    with first.events(GenerationEnded) as events:
        chunks = [c async for c in first.generate(PROMPT, model="m", **greedy(NEW))]
        ended = await anext(events)
    assert isinstance(ended, GenerationEnded)
    assert (ended.backend, ended.reason, ended.model) == ("shards", "length", "m")
    assert (ended.prompt_tokens, ended.completion_tokens) == (len(PROMPT), NEW)
    assert ended.first_token_s is not None
    assert 0 < ended.first_token_s < ended.took_s
    assert [(s.peer, s.start, s.end) for s in ended.stages] == [(first.id, 0, 3), (second.id, 3, 6)]

    shown = measured(first)
    assert shown.of("aitorrent_generations_total") == {'{backend="shards",reason="length"}': 1}
    assert shown.of("aitorrent_prompt_tokens_total") == {'{model="m"}': len(PROMPT)}
    assert shown.of("aitorrent_completion_tokens_total") == {'{model="m"}': NEW}
    assert shown.values["aitorrent_generations_running"] == 0
    first_s = shown.values['aitorrent_time_to_first_token_seconds_sum{backend="shards"}']
    assert first_s == ended.first_token_s
    spoken = [chunk for chunk in chunks if chunk.text or chunk.token_ids][1:]
    gaps = shown.values.get('aitorrent_inter_token_seconds_count{backend="shards"}', 0)
    assert gaps == sum(max(len(chunk.token_ids), 1) for chunk in spoken)

    pieces = math.ceil(len(PROMPT) / ShardsConfig(prefill_chunk=16).prefill_chunk)
    for node in (first, second):
        counts = measured(node).of("aitorrent_stage_seconds_count")
        assert counts == {'{phase="decode"}': NEW - 1, '{phase="prefill"}': pieces}
        assert set(measured(node).of("aitorrent_replays_total").values()) == {0}
    assert shown.of("aitorrent_hop_seconds_count") == {'{path="direct"}': NEW - 1}
    assert measured(second).of("aitorrent_hop_seconds_count") == {}
    assert measured(second).of("aitorrent_generations_total") == {}

    await wait_for(lambda: has_no_session(first) and has_no_session(second))
    assert shown.of("aitorrent_peers") == {
        '{state="direct"}': 1,
        '{state="relayed"}': 0,
        '{state="pending"}': 0,
    }
    label = f'protocol="{PROTOCOL}"'
    sent = measured(first).values[f'aitorrent_peer_bytes_total{{direction="out",{label}}}']
    received = measured(second).values[f'aitorrent_peer_bytes_total{{direction="in",{label}}}']
    activations = (len(PROMPT) + NEW - 1) * 64 * 4
    assert sent == received > activations
    assert first.id not in shown.text
    assert second.id not in shown.text


async def test_model_of_one_node_hops_locally(node_factory: NodeFactory, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m")
    (node,) = await shards_network(node_factory, path, ["0-6"])
    await node.ask("AB", model="m", **greedy(4))
    assert measured(node).of("aitorrent_hop_seconds_count") == {'{path="local"}': 3}
