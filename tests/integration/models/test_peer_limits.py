"""A program that asks for more answers at once than a peer lets a node ask in a minute."""

from __future__ import annotations

import json
from typing import Any

from aitorrentd.api import INFERENCE, PROTECTION
from tests.support.clients.raw_http import exchange, request
from tests.support.http_nodes import served
from tests.support.nodes import NodeFactory, wait_for
from tests.support.servers.ollama_server import FakeOllama

MINUTE = 30
"Calls a minute, of which a node may make all at once; further ones two seconds apart."
PROMPTS = 32
AT_ONCE = 8


async def test_peer_that_limits_calls_answers_all_and_has_little_to_complain_of(
    node_factory: NodeFactory,
) -> None:
    quiet = {"shards": {"enabled": False}, "inference": {"refresh_s": 0.1}}
    async with FakeOllama() as server:
        ollama = {"url": server.url, "poll_s": 0.1}
        limited = {"limits": {"calls_per_minute": MINUTE}}
        there = await node_factory({"plugins": {**quiet, "ollama": ollama, "transport": limited}})
        here = await node_factory({"plugins": {**quiet, "ollama": {"enabled": False}}})
        await here.connect(there.addresses()[0])
        await wait_for(lambda: here.service(INFERENCE).models(), 15)
        address = await served(here)
        body = json.dumps({"model": "llama3.2", "prompt": ["hi"] * PROMPTS}).encode()
        raw = request("POST", "/v1/completions", {"Content-Type": "application/json"}, body)
        answer = await exchange(address, raw, timeout_s=90)
        found = json.loads(answer.body)
        assert answer.status == 200, found
        texts = [choice["text"] for choice in found["choices"]]
        assert texts == ["The sky is blue"] * PROMPTS
        guard: Any = there.service(PROTECTION)
        assert 0 < len(guard.history(here.id)) <= AT_ONCE + 3
